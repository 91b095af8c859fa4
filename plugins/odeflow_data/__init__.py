"""The data that come with odeflow, one file each."""

from odeflow_data.crossing import Crossing
from odeflow_data.digits import Digits
from odeflow_data.mnist import MNIST
from odeflow_data.power import Power
from odeflow_data.spheres import Spheres
from odeflow_data.spiral import Spiral
from odeflow_data.standard_normal import StandardNormal
from odeflow_data.tabular_npy import TabularNPY
from odeflow_data.toy_density import ToyDensity

__all__ = ["MNIST", "Crossing", "Digits", "Power", "Spheres", "Spiral", "StandardNormal", "TabularNPY", "ToyDensity"]
