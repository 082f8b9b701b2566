from ropeexport.exporter import *  # noqa
from ropeexport.exporter import _may_fold  # noqa
