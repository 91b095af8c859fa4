"""Controlled differential equations: fields, paths and tasks."""

from odeflow_cde.bilinear import Bilinear as Bilinear
from odeflow_cde.cde import CDE as CDE
from odeflow_cde.control import Control as Control
from odeflow_cde.driven import Driven as Driven
from odeflow_cde.log_signature import LogSignature as LogSignature
from odeflow_cde.log_signature import log_signature_channels as log_signature_channels
from odeflow_cde.product import Product as Product
