"""Kværnø's pairs: diagonally implicit methods for stiff equations on adaptive grids.

Of both members of a pair the last stage is the result, so that the error estimate of a stiff component is damped as
the component is, and needs no filter.
"""

from __future__ import annotations

from schemes.implicit import DiagonallyImplicit
from schemes.registry import SCHEMES
from schemes.tableau import ButcherTableau


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
