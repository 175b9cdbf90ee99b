"""The records that make a zip file, as `struct` lays them out, little-endian; each starts with its signature.

Source: PKWARE APPNOTE.TXT 6.3.10, sections 4.3.7 to 4.3.16 and 4.5.3.
"""

from struct import Struct

# version, flags, method, time, date, crc, stored size, size, length of name, length of extra fields
LOCAL_SIGNATURE, LOCAL = b"PK\x03\x04", Struct("<4s5H3I2H")
# crc, stored size, size
DESCRIPTOR_SIGNATURE, DESCRIPTOR, DESCRIPTOR64 = b"PK\x07\x08", Struct("<4s3I"), Struct("<4sI2Q")
# version made by, version, flags, method, time, date, crc, stored size, size, lengths of name, extra fields and
# comment, disk, internal attributes, external attributes, position of the local header
CENTRAL_SIGNATURE, CENTRAL = b"PK\x01\x02", Struct("<4s6H3I5H2I")
# length of what follows, version made by, version, disk, directory's disk, entries here, entries, directory's size and
# position
END64_SIGNATURE, END64 = b"PK\x06\x06", Struct("<4sQ2H2I4Q")
# disk, position of the zip64 end record, disks
END64_LOCATOR_SIGNATURE, END64_LOCATOR = b"PK\x06\x07", Struct("<4sIQI")
# disk, directory's disk, entries here, entries, directory's size and position, length of comment
END_SIGNATURE, END = b"PK\x05\x06", Struct("<4s4H2IH")

DESCRIPTOR_FOLLOWS, UTF8 = 1 << 3, 1 << 11
ZIP64_EXTRA = 1
# A field that is full stands in the zip64 extra field or end record instead.
FULL16, FULL32 = 0xFFFF, 0xFFFFFFFF
