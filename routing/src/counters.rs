//! What is counted: one field for each cause.

/// `Counters` with this description and these fields: numbers that only grow, with their names.
macro_rules! counters {
    ($all:literal; $($(#[$doc:meta])* $name:ident,)*) => {
        #[doc = $all]
        #[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
        #[non_exhaustive]
        pub struct Counters { $($(#[$doc])* pub $name: u64,)* }
        impl Counters {
            /// All of them with their names.
            pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name)),*].into_iter()
            }
        }
    };
}

pub(crate) use counters;
