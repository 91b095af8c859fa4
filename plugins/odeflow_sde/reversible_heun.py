"""The reversible Heun method."""

import odeflow as of


class ReversibleHeun(of.StochasticSolver):
    """The reversible Heun method for equations in the sense of Stratonovich, with any noise.

    A step takes one value of the drift and one of the diffusion. Steps can be undone exactly, so that `Reversible`
    needs no memory for them. It is less stable than `StochasticHeun`.

    Source: Kidger et al. (2021), "Efficient and Accurate Gradients for Neural SDEs".
    """

    order = 2
    steps = of.ReversibleHeunStages
    strong = {"diagonal": 1.0, "scalar": 1.0, "additive": 1.0, "general": 0.5}  # noqa: RUF012
    calculi = ("stratonovich",)
