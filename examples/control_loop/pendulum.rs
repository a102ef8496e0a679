//! The plant: an upright pendulum on a cart, which falls in a second unless somebody moves the cart; and the law by
//! which a controller keeps it up.

/// Metres per second squared.
const GRAVITY: f64 = 9.81;
/// Kilograms of the cart, and of the weight at the upper end of a rod of one metre.
const CART: f64 = 1.0;
const WEIGHT: f64 = 0.1;

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Motion {
    /// Metres from where the cart should be, and metres per second.
    pub position: f64,
    pub speed: f64,
    /// Radians from upright, and radians per second.
    pub angle: f64,
    pub turn: f64,
}

impl Motion {
    /// Leaning at the start.
    pub const START: Self = Self {
        position: 0.0,
        speed: 0.0,
        angle: 0.1,
        turn: 0.0,
    };

    /// Whether it has fallen, from where no force on the cart brings it back.
    pub fn has_fallen(&self) -> bool {
        self.angle.abs() >= 1.0 || self.angle.is_nan()
    }

    /// The force on the cart, in newtons, that brings the pendulum up and the cart back: so much for each of the four
    /// figures that the linearised system of the two has its poles at −2, −2, −3 and −3 per second.
    pub fn force(&self) -> f64 {
        // (s + 2)²(s + 3)² = s⁴ + 10 s³ + 37 s² + 60 s + 36
        let position = 36.0 / GRAVITY;
        let speed = 60.0 / GRAVITY;
        let turn = 10.0 + speed;
        let angle = 37.0 + (CART + WEIGHT) * GRAVITY / CART + position;
        position * self.position + speed * self.speed + angle * self.angle + turn * self.turn
    }

    /// How it moves on for `seconds` under a force, by the classical method of Runge and Kutta.
    pub fn after(self, seconds: f64, force: f64) -> Self {
        let half = seconds / 2.0;
        let first = self.rate(force);
        let second = self.plus(half, first).rate(force);
        let third = self.plus(half, second).rate(force);
        let fourth = self.plus(seconds, third).rate(force);
        let sixth = seconds / 6.0;
        self.plus(sixth, first)
            .plus(2.0 * sixth, second)
            .plus(2.0 * sixth, third)
            .plus(sixth, fourth)
    }

    /// The derivative of each figure.
    fn rate(self, force: f64) -> Self {
        let (sin, cos) = self.angle.sin_cos();
        let push = force + WEIGHT * sin * (self.turn * self.turn - GRAVITY * cos);
        let acceleration = push / (CART + WEIGHT * sin * sin);
        Self {
            position: self.speed,
            speed: acceleration,
            angle: self.turn,
            turn: GRAVITY * sin - acceleration * cos,
        }
    }

    fn plus(self, times: f64, rate: Self) -> Self {
        Self {
            position: self.position + times * rate.position,
            speed: self.speed + times * rate.speed,
            angle: self.angle + times * rate.angle,
            turn: self.turn + times * rate.turn,
        }
    }
}
