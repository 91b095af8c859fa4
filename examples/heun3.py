"""A plugin in a loose file, without a package.

odeflow fit -c spiral --plugins examples/heun3.py --model.solver Heun3 --model.solver.step_size 0.025
"""

import odeflow as of


class Heun3(of.RungeKutta):
    """Heun's method of order 3, three evaluations a step.

    Source: Heun (1900), Z. Math. Phys. 45, 23–38; Hairer, Nørsett & Wanner, table II.1.1.
    """

    tableau = of.Tableau(order=3, c=(0, 1 / 3, 2 / 3), a=((), (1 / 3,), (0, 2 / 3)), b=(1 / 4, 0, 3 / 4))
