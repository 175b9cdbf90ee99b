"""What a net's weights say of the net itself: its wiring, its pools, the range of its inputs, its mistakes."""

from denseport.evidence.consistency import EXCHANGED, Damage
from denseport.evidence.inputs import Inputs
from denseport.evidence.prediction import Norm, grouped, middle
from denseport.evidence.verdicts import Evidence, Fit, Shown, examine

__all__ = ["EXCHANGED", "Damage", "Evidence", "Fit", "Inputs", "Norm", "Shown", "examine", "grouped", "middle"]
