//! A list that nearly always has one item: it lies in its place, so that no pointer is followed to
//! it. Several are on the heap.

use std::ops::Deref;
use std::slice;

/// A list that is read often and nearly always has one item.
///
/// ```
/// use inmesh_core::model::Few;
/// let few: Few<u8> = [7].into_iter().collect();
/// assert_eq!(*few, [7]);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Few<T>(Items<T>);

/// A list of one is always `One`, so that equal lists are equal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Items<T> {
    One(T),
    Many(Box<[T]>),
}

impl<T> Deref for Few<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match &self.0 {
            Items::One(item) => slice::from_ref(item),
            Items::Many(items) => items,
        }
    }
}

impl<T> From<T> for Few<T> {
    fn from(item: T) -> Self {
        Self(Items::One(item))
    }
}

impl<T> FromIterator<T> for Few<T> {
    fn from_iter<I: IntoIterator<Item = T>>(items: I) -> Self {
        let mut items = items.into_iter();
        match (items.next(), items.next()) {
            (Some(only), None) => only.into(),
            (first, second) => Self(Items::Many(
                first.into_iter().chain(second).chain(items).collect(),
            )),
        }
    }
}

/// Empty.
impl<T> Default for Few<T> {
    fn default() -> Self {
        [].into_iter().collect()
    }
}
