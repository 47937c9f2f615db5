//! The fast path of the codec: exact scalars, encoded and decoded without calling Python. Everything else is
//! left to the codec in `bide/_codec.py`, which makes the same bytes.

use bide_core::Value;
use bide_core::items::Tags;
use pyo3::prelude::*;
use pyo3::types::{PyBool, PyBytes, PyFloat, PyInt, PyNone, PyString};
use pyo3::{PyTraverseError, PyVisit, intern};

use crate::gil::{self, Kept, Owned, Raised};

/// A longer text goes through the codec, which warns of large values.
const LONGEST_TEXT: usize = 64 * 1024;

/// A `bide._codec.Codec`, compiled for one annotation.
pub(crate) struct Codec {
    /// The object itself, for values that the fast path does not take.
    codec: Kept,
    /// Which scalars need no look at the annotation.
    fast: Tags,
}

impl Codec {
    /// Another reference to it.
    pub(crate) fn kept(&self, py: Python<'_>) -> Self {
        Self { codec: Kept::new(self.codec.bind(py).clone().unbind()), fast: self.fast }
    }

    /// The scalars that it takes without a look at the annotation.
    pub(crate) const fn fast(&self) -> Tags {
        self.fast
    }

    /// Shows the garbage collector the Python object.
    pub(crate) fn traverse(&self, visit: &PyVisit<'_>) -> Result<(), PyTraverseError> {
        visit.call(&*self.codec)
    }

    /// A value as stored bytes, checked by the annotation.
    pub(crate) fn encode(&self, value: &Bound<'_, PyAny>) -> Result<Value, Raised> {
        if let Some(encoded) = encode_scalar(value).filter(|encoded| self.fast.has(encoded.tag())) {
            return Ok(encoded);
        }
        let py = value.py();
        let bytes = gil::call_method1(self.codec.bind(py), intern!(py, "encode"), value)?;
        let bytes = bytes.cast::<PyBytes>().map_err(|error| Raised::new(value.py(), error.into()))?;
        Ok(Value::new(bytes.as_bytes()))
    }

    /// A value from stored bytes, by the annotation.
    pub(crate) fn decode<'py>(&self, py: Python<'py>, value: &Value) -> Result<Owned<'py>, Raised> {
        if self.fast.has(value.tag())
            && let Some(decoded) = decode_scalar(py, value)
        {
            return Ok(Owned::from(decoded));
        }
        let bytes = PyBytes::new(py, value.as_bytes());
        gil::call_method1(self.codec.bind(py), intern!(py, "decode"), bytes.as_any())
    }
}

impl FromPyObject<'_, '_> for Codec {
    type Error = PyErr;

    fn extract(codec: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        let fast = codec.getattr(intern!(codec.py(), "fast"))?;
        let fast = Tags::new(&fast.cast::<PyString>()?.to_cow()?);
        Ok(Self { codec: Kept::new(codec.to_owned().unbind()), fast })
    }
}

/// An exact scalar as stored bytes. `None`: the codec has to look at it.
fn encode_scalar(value: &Bound<'_, PyAny>) -> Option<Value> {
    if value.is_none() {
        return Some(Value::NONE);
    }
    if value.is_exact_instance_of::<PyInt>() {
        let number: i64 = value.extract().ok()?;
        return Some(Value::tagged(b'i', itoa::Buffer::new().format(number).as_bytes()));
    }
    if value.is_exact_instance_of::<PyString>() {
        let text = value.cast::<PyString>().ok()?.to_cow().ok()?;
        return (text.len() <= LONGEST_TEXT).then(|| Value::tagged(b's', text.as_bytes()));
    }
    if value.is_exact_instance_of::<PyBool>() {
        let tag = if value.cast::<PyBool>().ok()?.is_true() { b't' } else { b'f' };
        return Some(Value::tagged(tag, b""));
    }
    if value.is_exact_instance_of::<PyFloat>() {
        let number: f64 = value.extract().ok()?;
        // Without an exponent Rust and Python print the same digits.
        let text = format!("{number:?}");
        let plain = number.is_finite() && !text.contains('e');
        return plain.then(|| Value::tagged(b'd', text.as_bytes()));
    }
    None
}

/// A stored scalar. `None`: the codec has to look at it.
pub(crate) fn decode_scalar<'py>(py: Python<'py>, value: &Value) -> Option<Bound<'py, PyAny>> {
    let text = || std::str::from_utf8(value.payload()).ok();
    match value.tag() {
        b'n' => Some(PyNone::get(py).to_owned().into_any()),
        b't' => Some(PyBool::new(py, true).to_owned().into_any()),
        b'f' => Some(PyBool::new(py, false).to_owned().into_any()),
        b'i' => {
            let number: i64 = text()?.parse().ok()?;
            number.into_pyobject(py).ok().map(Bound::into_any)
        }
        b'd' => {
            let number: f64 = text()?.parse().ok()?;
            Some(PyFloat::new(py, number).into_any())
        }
        b's' => Some(PyString::new(py, text()?).into_any()),
        _ => None,
    }
}
