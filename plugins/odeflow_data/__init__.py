"""The data that come with odeflow, one file each."""

from odeflow_data.bidirectional_spirals import BidirectionalSpirals as BidirectionalSpirals
from odeflow_data.character_trajectories import CharacterTrajectories as CharacterTrajectories
from odeflow_data.cifar10 import CIFAR10 as CIFAR10
from odeflow_data.crossing import Crossing as Crossing
from odeflow_data.decay import Decay as Decay
from odeflow_data.digits import Digits as Digits
from odeflow_data.hopper import Hopper as Hopper
from odeflow_data.images import Images as Images
from odeflow_data.lynx_hare import LynxHare as LynxHare
from odeflow_data.mnist import MNIST as MNIST
from odeflow_data.no_data import NoData as NoData
from odeflow_data.pendulum import Pendulum as Pendulum
from odeflow_data.periodic_series import PeriodicSeries as PeriodicSeries
from odeflow_data.physionet2012 import PhysioNet2012 as PhysioNet2012
from odeflow_data.power import Power as Power
from odeflow_data.reading import Reading as Reading
from odeflow_data.series_table import SeriesTable as SeriesTable
from odeflow_data.simulated import Simulated as Simulated
from odeflow_data.spheres import Spheres as Spheres
from odeflow_data.spiral import Spiral as Spiral
from odeflow_data.split import Split as Split
from odeflow_data.standard_normal import StandardNormal as StandardNormal
from odeflow_data.table import Table as Table
from odeflow_data.toy_density import ToyDensity as ToyDensity
from odeflow_data.trajectories import Trajectories as Trajectories
from odeflow_data.window import Window as Window
