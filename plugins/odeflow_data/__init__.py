"""The data that come with odeflow, one file each."""

from odeflow_data.digits import Digits
from odeflow_data.mnist import MNIST
from odeflow_data.spiral import Spiral

__all__ = ["MNIST", "Digits", "Spiral"]
