"""The public names, each from its module: for type checkers, for editors, and for `__init__.py`, which reads them."""

from denseport.checkpoint import Checkpoint as Checkpoint
from denseport.checkpoint import Tensor as Tensor
from denseport.conversion import ConversionReport as ConversionReport
from denseport.conversion import convert as convert
from denseport.difference import Difference as Difference
from denseport.difference import diff as diff
from denseport.errors import DenseportError as DenseportError
from denseport.errors import FormatError as FormatError
from denseport.errors import FrameworkMissingError as FrameworkMissingError
from denseport.errors import LayoutError as LayoutError
from denseport.errors import UsageError as UsageError
from denseport.errors import VerificationError as VerificationError
from denseport.files import read as read
from denseport.files import write as write
from denseport.inspection import Inspection as Inspection
from denseport.inspection import derive as derive
from denseport.inspection import inspect as inspect
from denseport.layouts.renaming import translate as translate
from denseport.load import load_keras as load_keras
from denseport.load import load_torch as load_torch
from denseport.migration import MigrationReport as MigrationReport
from denseport.migration import migrate as migrate
from denseport.net.config import DenseNetConfig as DenseNetConfig
from denseport.net.config import Traits as Traits
from denseport.parity.report import ParityReport as ParityReport
from denseport.parity.verification import verify as verify
from denseport.prediction import Prediction as Prediction
from denseport.prediction import predict as predict
from denseport.preprocessing import Preprocessing as Preprocessing
from denseport.preprocessing import preprocess as preprocess
from denseport.presets import Preset as Preset
from denseport.presets import pull as pull
from denseport.running.workers import Workers as Workers

__all__: list[str]
__version__: str
