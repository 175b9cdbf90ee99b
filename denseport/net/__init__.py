"""The net as data: its configuration, its graph, its weights under canonical names."""
