"""Sum: a sum of fields, such as known physics plus a network for the unknown part."""

from torch import Tensor, nn

import odeflow as of


class Sum(of.Dynamics):
    """The field dy/dt = Σₖ fₖ(t, y).

    Source: Rackauckas et al. (2020), "Universal Differential Equations for Scientific Machine Learning".

    Args:
        terms: The fields, of the same width.

    Raises:
        SettingError: There are no terms, or their widths differ.
    """

    def __init__(self, terms: list[of.Dynamics]) -> None:
        super().__init__()
        widths = {term.width for term in terms}
        if len(widths) != 1:
            found = ", ".join(f"{type(term).__name__} of width {term.width}" for term in terms) or "none"
            raise of.SettingError(f"Sum wants terms of one width; got {found}")
        self.terms = nn.ModuleList(terms)
        self.width = widths.pop()

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """(B, d, …) ↦ (B, d, …)."""
        first, *others = self.terms
        slope = first(t, y)
        for term in others:
            slope = slope + term(t, y)
        return slope

    def enter(self, y0: Tensor) -> Tensor:
        """y0 itself; `enter` is called on all terms.

        Raises:
            SettingError: A term changes the state on entry.
        """
        for term in self.terms:
            assert isinstance(term, of.Dynamics)
            if term.enter(y0).shape != y0.shape:
                raise of.SettingError(
                    f"Sum adds fields on one state, but {type(term).__name__} solves for something else than its "
                    "input. Wrap the sum in it instead"
                )
        return y0
