"""What is known of the names of classes and functions in a pickle: which are usual, and which run code."""

from convert.errors import RefusedError, shown
from convert.files.pickled import DTYPES, STORAGES

SCRIPT = "__torch__."
"""What the name of every class in a TorchScript archive begins with."""

USUAL = {
    *DTYPES,
    *STORAGES,
    *("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer", "torch.Size"),
    *("torch.device", "torch.serialization._get_layout", "_codecs.encode", "argparse.Namespace"),
    *("numpy.dtype", "numpy.ndarray", "copy_reg._reconstructor", "copyreg._reconstructor"),
    *("collections.OrderedDict", "collections.defaultdict", "collections.Counter", "collections.deque"),
    *(f"torch._utils._rebuild_{name}" for name in ("tensor", "tensor_v2", "tensor_v3")),
    *(f"torch._utils._rebuild_{name}" for name in ("parameter", "parameter_with_state", "device_tensor_from_numpy")),
    *("torch._utils._rebuild_device_tensor_from_cpu_tensor", "torch._utils._rebuild_xla_tensor"),
    *("torch._tensor._rebuild_from_type_v2", "torch.tensor._rebuild_from_type_v2"),
    *(
        f"numpy.{core}.{name}"
        for core in ("core", "_core")
        for name in ("multiarray.scalar", "multiarray._reconstruct", "numeric._frombuffer")
    ),
    *(
        f"{module}.{name}"
        for module in ("builtins", "__builtin__")
        for name in ("bool", "bytearray", "bytes", "complex", "dict", "float", "frozenset", "int", "list", "long")
    ),
    *(
        f"{module}.{name}"
        for module in ("builtins", "__builtin__")
        for name in ("object", "range", "set", "slice", "str", "tuple", "unicode", "xrange", "NoneType")
    ),
}
"""Names that the pickles of state dicts and optimizers have."""

RUNNING_MODULES = (
    *("os", "posix", "nt", "posixpath", "ntpath", "subprocess", "sys", "shutil", "pty", "platform", "commands"),
    *("importlib", "imp", "runpy", "pkgutil", "zipimport", "pip", "setuptools", "distutils", "ensurepip", "venv"),
    *(
        "code.interact",
        "code.InteractiveConsole",
        "code.InteractiveInterpreter",
        "codeop",
        "pdb",
        "bdb",
        "profile",
        "cProfile",
        "pstats",
        "timeit",
        "trace",
        "doctest",
        "pydoc",
    ),
    *("unittest", "idlelib", "lib2to3", "webbrowser", "antigravity", "turtle", "cgi", "cgitb", "ctypes", "_ctypes"),
    *("cffi", "mmap", "gc", "inspect", "atexit", "signal", "threading", "_thread", "multiprocessing", "concurrent"),
    *("asyncio", "socket", "_socket", "socketserver", "ssl", "select", "selectors", "http", "urllib", "urllib2"),
    *("httplib", "requests", "aiohttp", "httpx", "ftplib", "telnetlib", "smtplib", "poplib", "imaplib", "nntplib"),
    *("xmlrpc", "wsgiref", "paramiko", "fabric", "pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib"),
    *("marshal", "shelve", "tempfile", "glob", "fileinput", "linecache", "sqlite3", "dbm", "logging.config"),
    *(
        "numpy.testing._private.utils",
        "numpy.f2py",
        "numpy.distutils",
        "numpy.lib.npyio",
        "torch.hub",
        "torch.jit.load",
    ),
    *("torch.package", "torch.fx.graph_module", "torch.fx.experimental", "torch.serialization.load", "torch._dynamo"),
    *("torch._inductor", "torch.utils.cpp_extension", "torch.utils.collect_env", "torch.utils.bottleneck"),
    *("torch.utils._config_module", "torch.distributed.rpc", "torch.distributed.launcher", "torch.multiprocessing"),
    *("torch._utils._import_dotted_name", "torch.load", "torch.ops", "torch.classes", "tensorflow", "keras"),
    *("jax.experimental.host_callback", "IPython", "ipykernel", "pexpect", "sh", "plumbum", "psutil", "winreg"),
    *("_winreg", "_winapi", "msvcrt", "win32api", "types.CodeType", "types.FunctionType", "types.LambdaType"),
    *("operator.attrgetter", "operator.methodcaller", "functools.reduce", "itertools.starmap"),
    *("io.open", "io.open_code", "_io.open", "_io.FileIO", "io.FileIO", "codecs.open"),
    *("yaml.load", "yaml.unsafe_load", "sympy.sympify", "pandas.eval", "pandas.read_pickle"),
)
"""Modules and functions that run programs or code, load code, open files or connections, or reach such functions."""

RUNNING_BUILTINS = (
    *(
        "eval",
        "exec",
        "execfile",
        "compile",
        "open",
        "file",
        "input",
        "raw_input",
        "breakpoint",
        "__import__",
        "reload",
    ),
    *("getattr", "setattr", "delattr", "globals", "locals", "vars", "apply", "exit", "quit"),
)
"""Functions of Python itself that do so."""

RUNNING = {*RUNNING_MODULES, *(f"{m}.{name}" for m in ("builtins", "__builtin__") for name in RUNNING_BUILTINS)}


def usual(dotted: str) -> bool:
    """Whether ``dotted`` is one of the names that state dicts and optimizers need."""
    return dotted in USUAL or dotted.startswith(SCRIPT)


def danger(dotted: str) -> str:
    """A sentence on a name that ``pickle.load`` would run code with; empty for any other name."""
    parts = dotted.split(".", 8)[:8]
    if not any(".".join(parts[:i]) in RUNNING for i in range(1, len(parts) + 1)):
        return ""
    return f"pickle.load would run code of this file through {shown(dotted)}; nothing of it was run here"


def require_usual(dotted: str) -> None:
    """Refuse a name that no state dict needs, as ``strict_pickle`` asks."""
    if not usual(dotted):
        raise RefusedError(f"refuses {shown(dotted)}, which is not on the list of names that a state dict needs")
