"""The data that come with odeflow, one file each."""

from odeflow_data.bidirectional_spirals import BidirectionalSpirals
from odeflow_data.character_trajectories import CharacterTrajectories
from odeflow_data.cifar10 import CIFAR10
from odeflow_data.crossing import Crossing
from odeflow_data.decay import Decay
from odeflow_data.digits import Digits
from odeflow_data.hopper import Hopper
from odeflow_data.images import Images
from odeflow_data.lynx_hare import LynxHare
from odeflow_data.mnist import MNIST
from odeflow_data.no_data import NoData
from odeflow_data.pendulum import Pendulum
from odeflow_data.periodic_series import PeriodicSeries
from odeflow_data.physionet2012 import PhysioNet2012
from odeflow_data.power import Power
from odeflow_data.reading import Reading
from odeflow_data.series_table import SeriesTable
from odeflow_data.simulated import Simulated
from odeflow_data.spheres import Spheres
from odeflow_data.spiral import Spiral
from odeflow_data.split import Split
from odeflow_data.standard_normal import StandardNormal
from odeflow_data.table import Table
from odeflow_data.toy_density import ToyDensity
from odeflow_data.trajectories import Trajectories
from odeflow_data.window import Window

__all__ = [
    "CIFAR10",
    "MNIST",
    "BidirectionalSpirals",
    "CharacterTrajectories",
    "Crossing",
    "Decay",
    "Digits",
    "Hopper",
    "Images",
    "LynxHare",
    "NoData",
    "Pendulum",
    "PeriodicSeries",
    "PhysioNet2012",
    "Power",
    "Reading",
    "SeriesTable",
    "Simulated",
    "Spheres",
    "Spiral",
    "Split",
    "StandardNormal",
    "Table",
    "ToyDensity",
    "Trajectories",
    "Window",
]
