"""Training of flows without solving them: interpolants, couplings and tasks, one file each."""

from odeflow_matching.bridge import Bridge as Bridge
from odeflow_matching.conditional import Conditional as Conditional
from odeflow_matching.coupling import Coupling as Coupling
from odeflow_matching.coupling import Pairs as Pairs
from odeflow_matching.flow_matching import FlowMatching as FlowMatching
from odeflow_matching.from_data import FromData as FromData
from odeflow_matching.gaussian_ring import GaussianRing as GaussianRing
from odeflow_matching.guided import Guided as Guided
from odeflow_matching.independent import Independent as Independent
from odeflow_matching.interpolant import Coefficients as Coefficients
from odeflow_matching.interpolant import Interpolant as Interpolant
from odeflow_matching.isotropic_normal import IsotropicNormal as IsotropicNormal
from odeflow_matching.matching import Draw as Draw
from odeflow_matching.matching import Matching as Matching
from odeflow_matching.minibatch_ot import MinibatchOT as MinibatchOT
from odeflow_matching.probability_flow import ProbabilityFlow as ProbabilityFlow
from odeflow_matching.published_moons import PublishedMoons as PublishedMoons
from odeflow_matching.reflow import Reflow as Reflow
from odeflow_matching.score_matching import ScoreMatching as ScoreMatching
from odeflow_matching.sinkhorn import Sinkhorn as Sinkhorn
from odeflow_matching.straight import Straight as Straight
from odeflow_matching.target import Target as Target
from odeflow_matching.transport import Transport as Transport
from odeflow_matching.trigonometric import Trigonometric as Trigonometric
from odeflow_matching.ve_schedule import VESchedule as VESchedule
from odeflow_matching.vp_schedule import VPSchedule as VPSchedule
