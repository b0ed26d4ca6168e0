import ctypes

_lib: ctypes.CDLL
