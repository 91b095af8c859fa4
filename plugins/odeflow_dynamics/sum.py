"""Sum: a sum of fields, such as known physics plus a network for the unknown part."""

from torch import Tensor, nn

import odeflow as of


class Sum(of.Dynamics):
    """The field dy/dt = Σₖ fₖ(t, y).

    With external inputs u each term takes [y, u], whether it names the inputs, as `Equations`, or its width counts
    them, as that of a network.

    Source: Rackauckas et al. (2020), "Universal Differential Equations for Scientific Machine Learning".

    Args:
        terms: The fields, of the same width, inputs included.

    Raises:
        SettingError: There are no terms, or their widths or the names of their inputs differ.
    """

    def __init__(self, terms: list[of.Dynamics]) -> None:
        super().__init__()
        widths = {term.width + len(term.inputs) for term in terms}
        named = {term.inputs for term in terms if term.inputs}
        if len(widths) != 1 or len(named) > 1:
            found = ", ".join(
                f"{type(term).__name__} of width {term.width}"
                + (f" and inputs {', '.join(term.inputs)}" if term.inputs else "")
                for term in terms
            )
            same = " and of the same inputs" if named else ""
            raise of.SettingError(f"Sum expects terms of one width{same}; got {found or 'none'}")
        self.terms = nn.ModuleList(terms)
        self.inputs = named.pop() if named else ()
        self.width = widths.pop() - len(self.inputs)

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """(B, d, …) ↦ (B, d, …); if a term names inputs, (B, d + c) ↦ (B, d)."""
        first, *others = self.terms
        value = self._of_states(first(t, y))
        for term in others:
            value = value + self._of_states(term(t, y))
        return value

    def _of_states(self, value: Tensor) -> Tensor:
        """The entries of the states, without those of named inputs."""
        return value[..., : self.width] if self.inputs else value

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
