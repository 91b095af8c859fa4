"""DETEST: the 25 non-stiff problems of Hull et al. (1972), all from x = 0 to 20.

Source: Hull, Enright, Fellen & Sedgwick (1972), "Comparing numerical methods for ordinary differential equations",
SIAM J. Numer. Anal. 9, 603–637, the classes A (single equations), B (small systems), C (moderate systems), D (orbits)
and E (higher-order equations).
"""

from collections.abc import Callable
from functools import partial

import torch
from initial_value import D, InitialValueProblem
from torch import Tensor


def _stacked(*values: Tensor) -> Tensor:
    return torch.stack(values)


def _coordination(t: Tensor, y: Tensor) -> Tensor:  # B1, two populations in conflict
    return _stacked(2 * (y[0] - y[0] * y[1]), -(y[1] - y[0] * y[1]))


def _reaction(t: Tensor, y: Tensor) -> Tensor:  # B2, a linear chemical reaction
    return _stacked(-y[0] + y[1], y[0] - 2 * y[1] + y[2], y[1] - y[2])


def _nonlinear_reaction(t: Tensor, y: Tensor) -> Tensor:  # B3
    return _stacked(-y[0], y[0] - y[1] ** 2, y[1] ** 2)


def _torus(t: Tensor, y: Tensor) -> Tensor:  # B4, the integral surface of a torus
    r = torch.hypot(y[0], y[1])
    return _stacked(-y[1] - y[0] * y[2] / r, y[0] - y[1] * y[2] / r, y[0] / r)


def _rigid_body(t: Tensor, y: Tensor) -> Tensor:  # B5, without external forces
    return _stacked(y[1] * y[2], -y[0] * y[2], -0.51 * y[0] * y[1])


def _chain(rates: Tensor, t: Tensor, y: Tensor) -> Tensor:  # C1 and C2, radioactive decay
    decay = torch.cat((rates * y[:-1], y.new_zeros(1)))
    return torch.cat((y.new_zeros(1), decay[:-1])) - decay


def _diffusion(t: Tensor, y: Tensor) -> Tensor:  # C3 and C4, a parabolic equation on a line
    padded = torch.cat((y.new_zeros(1), y, y.new_zeros(1)))
    return padded[:-2] - 2 * y + padded[2:]


GRAVITY = 2.95912208286
SUN = 1.00000597682  # with the inner planets
MASSES = torch.tensor(
    (0.000954786104043, 0.000285583733151, 0.0000437273164546, 0.0000517759138449, 0.00000277777777778), dtype=D
)
POSITIONS = (
    (3.42947415189, 3.35386959711, 1.35494901715),
    (6.64145542550, 5.97156957878, 2.18231499728),
    (11.2630437207, 14.6952576794, 6.27960525067),
    (-30.1552268759, 1.65699966404, 1.43785752721),
    (-21.1238353380, 28.4465098142, 15.3882659679),
)
VELOCITIES = (
    (-0.557160570446, 0.505696783289, 0.230578543901),
    (-0.415570776342, 0.365682722812, 0.169143213293),
    (-0.325325669158, 0.189706021964, 0.0877265322780),
    (-0.0240476254170, -0.287659532608, -0.117219543175),
    (-0.176860753121, -0.216393453025, -0.0148647893090),
)


def _planets(t: Tensor, y: Tensor) -> Tensor:  # C5, the five outer planets
    q, v = y.view(2, 5, 3)
    pull = q / q.norm(dim=1, keepdim=True) ** 3
    between = q[None] - q[:, None]
    distance = between.norm(dim=2) + torch.eye(5, dtype=y.dtype)
    others = (MASSES[None, :, None] * between / distance[..., None] ** 3).sum(1)
    indirect = (MASSES[:, None] * pull).sum(0) - MASSES[:, None] * pull
    force = GRAVITY * (others - indirect - (SUN + MASSES[:, None]) * pull)
    return torch.cat((v, force)).flatten()


def _orbit(t: Tensor, y: Tensor) -> Tensor:  # D, two bodies
    return torch.cat((y[2:], -y[:2] / torch.hypot(y[0], y[1]) ** 3))


def _second_order(force: Callable[[Tensor, Tensor, Tensor], Tensor], t: Tensor, y: Tensor) -> Tensor:
    return _stacked(y[1], force(t, y[0], y[1]))


FORCES: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "E1": lambda x, y, v: (
        -(v / (x + 1) + (1 - 0.25 / (x + 1) ** 2) * y)
    ),  # Bessel's equation of order ½, shifted by one
    "E2": lambda x, y, v: (1 - y**2) * v - y,  # Van der Pol's
    "E3": lambda x, y, v: y**3 / 6 - y + 2 * torch.sin(2.78535 * x),  # Duffing's
    "E4": lambda x, y, v: 0.032 - 0.4 * v**2,  # a falling body
    "E5": lambda x, y, v: torch.sqrt(1 + v**2) / (25 - x),  # a linear pursuit
}
STARTS = {
    "E1": (0.6713967071418030, 0.09540051444747446),
    "E2": (2, 0),
    "E3": (0, 0),
    "E4": (30, 0),
    "E5": (0, 0),
}
SINGLE: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], float]] = {
    "A1": (lambda x, y: -y, 1),
    "A2": (lambda x, y: -(y**3) / 2, 1),
    "A3": (lambda x, y: y * torch.cos(x), 1),
    "A4": (lambda x, y: y / 4 * (1 - y / 20), 1),
    "A5": (lambda x, y: (y - x) / (y + x), 4),
}
SMALL: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], tuple[float, ...]]] = {
    "B1": (_coordination, (1, 3)),
    "B2": (_reaction, (2, 0, 1)),
    "B3": (_nonlinear_reaction, (1, 0, 0)),
    "B4": (_torus, (3, 0, 0)),
    "B5": (_rigid_body, (0, 1, 1)),
}


def problems() -> list[InitialValueProblem]:
    """All 25, in order."""
    found = [InitialValueProblem(name, field, torch.tensor([y0], dtype=D)) for name, (field, y0) in SINGLE.items()]
    found += [InitialValueProblem(name, field, torch.tensor(y0, dtype=D)) for name, (field, y0) in SMALL.items()]
    rates = torch.arange(1, 10, dtype=D)
    found += [
        InitialValueProblem("C1", partial(_chain, torch.ones(9, dtype=D)), torch.eye(10, dtype=D)[0]),
        InitialValueProblem("C2", partial(_chain, rates), torch.eye(10, dtype=D)[0]),
        InitialValueProblem("C3", _diffusion, torch.eye(10, dtype=D)[0]),
        InitialValueProblem("C4", _diffusion, torch.eye(51, dtype=D)[0]),
        InitialValueProblem("C5", _planets, torch.tensor((POSITIONS, VELOCITIES), dtype=D).flatten()),
    ]
    for number in range(1, 6):
        e = 0.2 * number - 0.1
        found.append(
            InitialValueProblem(f"D{number}", _orbit, torch.tensor((1 - e, 0, 0, ((1 + e) / (1 - e)) ** 0.5), dtype=D))
        )
    found += [
        InitialValueProblem(name, partial(_second_order, force), torch.tensor(STARTS[name], dtype=D))
        for name, force in FORCES.items()
    ]
    return found
