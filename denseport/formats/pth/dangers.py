"""The names in pickles that only an attack has a use for.

Nothing that a pickle names is ever imported or called here, so this is a courtesy: nobody should keep such a file.

Source: what picklescan (src/picklescan/scanner.py) and fickling (fickling/fickle.py) call unsafe.
"""

from __future__ import annotations

# What would be dangerous as any part of a dotted name: modules are attributes of those that import them.
_ANYWHERE = """
__builtin__ builtins __builtins__ cffi cPickle _ctypes ctypes delattr eval exec execfile _frozen_importlib
_frozen_importlib_external getattr __import__ importlib marshal nt os _pickle pickle popen posix _posixsubprocess pty
runpy setattr shutil _socket socket spawn subprocess sys
"""
# Modules with all that is below them, and single names.
_BELOW = """
aiohttp _aix_support antigravity asyncio bdb cgitb cloudpickle code.interact code.InteractiveConsole
code.InteractiveInterpreter codeop commands compileall cProfile dill distutils doctest ensurepip fileinput ftplib http
httplib httpx idlelib imaplib imp inspect joblib jsonpickle lib2to3 linecache logging.config modulefinder
multiprocessing.popen_fork multiprocessing.util nntplib nturl2path numpy.ctypeslib numpy.distutils numpy.f2py
numpy.load numpy.save numpy.savez numpy.testing operator.attrgetter operator.itemgetter operator.methodcaller
_osx_support pandas.read_pickle pdb pickletools pip pkg_resources pkgutil platform poplib profile.Profile profile.run
profile.runctx py_compile pydoc _pyrepl requests setuptools shelve signal smtplib socketserver ssl sysconfig telnetlib
test.support _thread.start_new_thread threading.Thread timeit torch._dynamo.guards torch._inductor torch.classes
torch.compile torch.fx.experimental torch.hub torch.jit torch.load torch.ops torch.package torch.save
torch.serialization torch.utils._config_module torch.utils.bottleneck torch.utils.collect_env
torch.utils.cpp_extension torch.utils.data.datapipes torch.utils.model_zoo trace.Trace types.CodeType
types.FunctionType types.LambdaType types.MethodType urllib urllib2 venv webbrowser wsgiref xmlrpc yaml.load
yaml.unsafe_load zipapp zipimport
"""
# Of Python's own names, those that stand in honest files: types of values, and errors.
_HARMLESS_BUILTINS = """
abs all any basestring bool bytearray bytes complex dict Ellipsis enumerate filter float frozenset int len list long
map max min NotImplemented object print range reversed round set slice sorted str sum tuple type unicode xrange zip
"""
ANYWHERE, BELOW = frozenset(_ANYWHERE.split()), frozenset(_BELOW.split())
HARMLESS_BUILTINS = frozenset(_HARMLESS_BUILTINS.split())
_ERRORS = ("Error", "Exception", "Warning", "Interrupt", "Exit", "Iteration")
# Functions of honest files below modules that are called otherwise: numpy's random states, TorchScript's lists.
HARMLESS = frozenset(
    {
        *(f"numpy.random._pickle.__{of}_ctor" for of in ("generator", "bit_generator", "randomstate")),
        *(f"torch.jit._pickle.build_{of}list" for of in ("int", "double", "bool", "tensor")),
        "torch.jit._pickle.restore_type_tag",
        "torch.serialization._get_layout",
    }
)
_MAINS = ("__main__", "__mp_main__", "__torch__")


def is_dangerous(module: str, name: str) -> bool:
    """Whether a name of a module, which may have dots as well, has no place in a file of weights."""
    dotted = f"{module}.{name}"
    if module in ("builtins", "__builtin__"):
        return name not in HARMLESS_BUILTINS and not (name.isidentifier() and name.endswith(_ERRORS))
    if dotted in HARMLESS:
        return False
    parts = dotted.split(".")
    if not ANYWHERE.isdisjoint(parts) or any(map(_is_special, parts[1:])) or _is_special(parts[0], _MAINS):
        return True
    return any(".".join(parts[:count]) in BELOW for count in range(1, len(parts) + 1))


def _is_special(part: str, but: tuple[str, ...] = ()) -> bool:
    """Whether a part of a name is one of Python's own, such as `__subclasses__`."""
    return part.startswith("__") and part.endswith("__") and part not in but
