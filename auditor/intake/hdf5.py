"""HDF5 behind one door: the library is loaded with plug-ins switched off; a foreign file is walked before it is read.

Import `h5py` from here and nowhere else. libhdf5 reads HDF5_PLUGIN_PATH, HDF5_VOL_CONNECTOR and HDF5_DRIVER when it is
loaded, and with the first of them runs a planted shared object's code on a mere dataset read.
"""

from __future__ import annotations

import os

for _name in ("HDF5_PLUGIN_PATH", "HDF5_VOL_CONNECTOR", "HDF5_DRIVER", "HDF5_DRIVER_CONFIG"):
    os.environ.pop(_name, None)
os.environ["HDF5_PLUGIN_PRELOAD"] = "::"  # the library's own word for «no plug-in at all»

import h5py  # noqa: E402

while h5py.h5pl.size():
    h5py.h5pl.remove(0)

__all__ = ["h5py"]
