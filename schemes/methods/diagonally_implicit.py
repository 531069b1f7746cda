"""Diagonally implicit Runge-Kutta methods, and Kværnø's pairs of them for stiff equations on adaptive grids.

Of both members of one of Kværnø's pairs the last stage is the result, so that the error estimate of a stiff component
is damped as the component is, and needs no filter.
"""

from __future__ import annotations

from fractions import Fraction as F
from math import sqrt

from schemes.core.tableau import ButcherTableau
from schemes.methods.implicit_runge_kutta import DiagonallyImplicit
from schemes.registry import SCHEMES


@SCHEMES.register("kvaerno3")
class Kvaerno3(DiagonallyImplicit):
    r"""Kværnø's pair 3(2) of four stages, the first one explicit; A- and L-stable. g^3 - 3 g^2 + 3/2 g - 1/6 = 0.

        Y_i = u_n + h sum_{j < i} a_ij k_j + g h k_i,     u_{n+1} = Y_4,     error = Y_4 - Y_3

    Reference: Kværnø, "Singly Diagonally Implicit Runge-Kutta Methods with an Explicit First Stage", BIT 44, 2004.
    """

    _g = 0.4358665215084590
    _before = ((-4 * _g**2 + 6 * _g - 1) / (4 * _g), (1 - 2 * _g) / (4 * _g), _g)
    _last = ((6 * _g - 1) / (12 * _g), -1 / ((24 * _g - 12) * _g), (-6 * _g**2 + 6 * _g - 1) / (6 * _g - 3), _g)
    tableau = ButcherTableau(
        a=((), (_g, _g), _before, _last),
        b=_last,
        order=3,
        embedded=(*_before, 0),
        embedded_order=2,
        c=(0, 2 * _g, 1, 1),
    )


@SCHEMES.register("kvaerno5")
class Kvaerno5(DiagonallyImplicit):
    r"""Kværnø's pair 5(4) of seven stages, the first one explicit; A- and L-stable, both weights stiffly accurate.

        Y_i = u_n + h sum_{j < i} a_ij k_j + 0.26 h k_i,     u_{n+1} = Y_7,     error = Y_7 - Y_6

    The continuous extension of order 4 is ours: of the quartics in theta that satisfy the order conditions at every
    theta and have the slopes of f at both ends, the one of the least error of order 5.

    The coefficients of order 6 in the error of a step are 4.2 times those of order 5 in its estimate (dopri5: 0.34):
    where a tolerance is not small enough for the difference in order to tell, the estimate is below the error.

    Reference: Kværnø, "Singly Diagonally Implicit Runge-Kutta Methods with an Explicit First Stage", BIT 44, 2004.
    """

    _last = (
        0.13659751177640291, 0, -0.05496908796538376, -0.04118626728321046, 0.62993304899016403, 0.06962479448202728,
        0.26,
    )  # fmt: skip
    _before = (0.13855640231268224, 0, -0.04245337201752043, 0.02446657898003141, 0.61943039072480676, 0.26)
    tableau = ButcherTableau(
        a=(
            (),
            (0.26, 0.26),
            (0.13, 0.84033320996790809, 0.26),
            (0.22371961478320505, 0.47675532319799699, -0.06470895363112615, 0.26),
            (0.16648564323248321, 0.10450018841591720, 0.03631482272098715, -0.13090704451073998, 0.26),
            _before,
            _last,
        ),
        b=_last,
        order=5,
        embedded=(*_before, 0),
        embedded_order=4,
        c=(0, 0.52, 1.230333209967908, 0.8957659843500759, 0.43639360985864756, 1, 1),
        dense=(
            (1, -2.138503566484725, 1.8233971800750608, -0.548296101813933),
            (0,),
            (0, 0.4180608263618063, -1.055998004585153, 0.5829680902579628),
            (0, -2.8942143300134955, 5.623683590894142, -2.770655528163857),
            (0, 3.613288415414512, -4.706844634868363, 1.7234892684440146),
            (0, 0.5761737230005479, -0.8738482680729871, 0.3672993395544665),
            (0, 0.42519493172135836, -0.810389863442706, 0.6451949317213477),
        ),
        dense_order=4,
    )


class FourSubsteps(DiagonallyImplicit, abstract=True):
    """A method of low order with four substeps by default.

    At h = 1 an untrained block is too far from a contraction for one or two. Arguments as of
    :class:`ImplicitRungeKutta`.
    """

    def __init__(
        self, tolerance: float | None = None, iterations: int = 20, krylov: int = 40, substeps: int = 4
    ) -> None:
        super().__init__(tolerance, iterations, krylov, substeps)


@SCHEMES.register("backward_euler", "implicit_euler")
class BackwardEuler(FourSubsteps):
    r"""Backward Euler, which PolyNet truncates.

        u_{n+1} = u_n + h f(t_n + h, u_{n+1})

    A-stable and L-stable. ``backward_euler_poly`` keeps the first terms of its Neumann series for linear f.

    Reference: Curtiss, Hirschfelder, "Integration of Stiff Equations", Proc. Natl. Acad. Sci. 38, 1952.
    """

    tableau = ButcherTableau(a=((1,),), b=(1,), order=1)


@SCHEMES.register("implicit_midpoint")
class ImplicitMidpoint(FourSubsteps):
    r"""The implicit midpoint rule, Gauss's method of one stage; symplectic and A-stable.

        u_{n+1} = u_n + h f(t_n + h/2, (u_n + u_{n+1}) / 2)

    Reference: Hairer, Lubich, Wanner, "Geometric Numerical Integration", 2nd ed., Springer 2006, section II.1.
    """

    tableau = ButcherTableau(a=((F(1, 2),),), b=(1,), order=2)


@SCHEMES.register("trapezoidal", "trapezoid")
class Trapezoidal(FourSubsteps):
    r"""The trapezoidal rule, Crank and Nicolson's; A-stable.

        u_{n+1} = u_n + h/2 [f(t_n, u_n) + f(t_n + h, u_{n+1})]

    Reference: Crank, Nicolson, "A Practical Method for Numerical Evaluation of Solutions of Partial Differential
    Equations of the Heat-Conduction Type", Proc. Camb. Phil. Soc. 43, 1947.
    """

    tableau = ButcherTableau(a=((), (F(1, 2), F(1, 2))), b=(F(1, 2), F(1, 2)), order=2)


@SCHEMES.register("sdirk2")
class Sdirk2(DiagonallyImplicit):
    r"""Alexander's method of two stages and order 2 with g = 1 - sqrt(2)/2; A- and L-stable.

        Y_1 = u_n + h g k_1,     u_{n+1} = Y_2 = u_n + h ((1 - g) k_1 + g k_2)

    Reference: Alexander, "Diagonally Implicit Runge-Kutta Methods for Stiff O.D.E.'s", SIAM J. Numer. Anal. 14, 1977.
    """

    _g = 1 - sqrt(2) / 2
    tableau = ButcherTableau(a=((_g,), (1 - _g, _g)), b=(1 - _g, _g), order=2)


@SCHEMES.register("trbdf2")
class TrBdf2(DiagonallyImplicit):
    r"""The trapezoidal rule to t_n + 2 g h, then the second-order backward difference; g = 1 - sqrt(2)/2, L-stable.

        Y_2 = u_n + h g (k_1 + k_2),     u_{n+1} = Y_3 = u_n + h (sqrt(2)/4 (k_1 + k_2) + g k_3)

    Reference: Bank, Coughran, Fichtner, Grosse, Rose, Smith, "Transient Simulation of Silicon Devices and Circuits",
    IEEE Trans. Electron Devices 32, 1985; Hosea, Shampine, "Analysis and Implementation of TR-BDF2", Appl. Numer.
    Math. 20, 1996.
    """

    _g, _w = 1 - sqrt(2) / 2, sqrt(2) / 4
    tableau = ButcherTableau(a=((), (_g, _g), (_w, _w, _g)), b=(_w, _w, _g), order=2)
