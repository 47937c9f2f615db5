//! Values of closures: to and from the stored form that all host languages share (tags `n t f i d s j`).

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use bide_core::time::micros;
use bide_core::{DefinitionError, Failure, FailureKind, Time, Value};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::shape::{Shape, shape_of};
use crate::runs::run::Inputs;

/// Encodes a value; says what cannot be stored and where it is.
pub(super) fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Value, String> {
    Ok(match shape_of(value).map_err(|error| error.to_string())? {
        Shape::None => Value::NONE,
        Shape::Bool(true) => Value::tagged(b't', b""),
        Shape::Bool(false) => Value::tagged(b'f', b""),
        Shape::Int(int) => Value::tagged(b'i', int.to_string().as_bytes()),
        Shape::BigInt(int) => Value::tagged(b'i', int.to_string().as_bytes()),
        Shape::Float(float) => Value::tagged(b'd', format!("{float:?}").as_bytes()),
        Shape::Text(text) => Value::tagged(b's', text.as_bytes()),
        Shape::Compound => {
            let mut bytes = vec![b'j'];
            serde_json::to_writer(&mut bytes, value).map_err(|error| error.to_string())?;
            Value::new(&bytes)
        }
    })
}

/// Decodes a value; says why it does not fit.
pub(super) fn decode<T: DeserializeOwned>(value: &Value) -> Result<T, String> {
    let payload = value.payload();
    let read = match value.tag() {
        b'n' => serde_json::from_slice(b"null"),
        b't' => serde_json::from_slice(b"true"),
        b'f' => serde_json::from_slice(b"false"),
        b'i' | b'd' | b'j' => serde_json::from_slice(payload),
        b's' => std::str::from_utf8(payload)
            .map_err(serde::de::Error::custom)
            .and_then(|text| serde_json::from_value(serde_json::Value::String(text.to_owned()))),
        b'p' => return Err("it is a Python pickle, which only Python reads".to_owned()),
        tag => return Err(format!("its codec tag {:?} is not known here", char::from(tag))),
    };
    read.map_err(|error| error.to_string())
}

/// A failure to encode or decode.
pub(super) fn serialization_failure(message: &str) -> Failure {
    Failure::new(FailureKind::Serialization, "bide.SerializationError", message)
}

/// The inputs of a run, ordered by name: anything that serialises to named values, or `()` for none.
pub(super) fn inputs<T: Serialize + ?Sized>(inputs: &T) -> Result<Inputs, DefinitionError> {
    let refused = |why: String| DefinitionError(format!("the inputs cannot be stored: {why}"));
    let shape = shape_of(inputs).map_err(|error| refused(error.to_string()))?;
    let json = serde_json::to_value(inputs).map_err(|error| refused(error.to_string()))?;
    let pairs: Vec<(String, serde_json::Value)> = match (shape, json) {
        (Shape::None, _) => Vec::new(),
        (_, serde_json::Value::Object(members)) => members.into_iter().collect(),
        (_, json @ serde_json::Value::Array(_)) => serde_json::from_value(json)
            .map_err(|_| refused("they must be named values: a struct, a map or pairs".to_owned()))?,
        _ => return Err(refused("they must be named values: a struct, a map or pairs".to_owned())),
    };
    let mut named = Vec::with_capacity(pairs.len());
    for (name, value) in pairs {
        let value = encode(&value).map_err(|why| refused(format!("'{name}': {why}")))?;
        named.push((Arc::from(name), value));
    }
    named.sort_by(|(a, _): &(Arc<str>, Value), (b, _)| a.cmp(b));
    if let Some(pair) = named.windows(2).find(|pair| pair[0].0 == pair[1].0) {
        return Err(refused(format!("'{}' is given twice", pair[0].0)));
    }
    Ok(named.into())
}

/// A time as it is stored.
pub(super) fn stored_time(time: SystemTime) -> Time {
    Time(time.duration_since(UNIX_EPOCH).map_or_else(|error| -micros(error.duration()), micros))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn stored<T: Serialize>(value: T) -> String {
        String::from_utf8(encode(&value).unwrap().as_bytes().to_vec()).unwrap()
    }

    #[test]
    fn scalars_have_the_tags_that_all_languages_read() {
        assert_eq!(stored(()), "n");
        assert_eq!(stored(None::<u8>), "n");
        assert_eq!((stored(true), stored(Some(false))), ("t".into(), "f".into()));
        assert_eq!((stored(-7_i8), stored(u128::MAX)), ("i-7".into(), format!("i{}", u128::MAX)));
        assert_eq!((stored(1.0), stored(0.1_f32)), ("d1.0".into(), "d0.1".into()));
        assert_eq!((stored("a\"b"), stored('c')), ("sa\"b".into(), "sc".into()));
        assert_eq!(stored((1, "a")), "j[1,\"a\"]");
    }

    #[test]
    fn values_read_back_as_what_they_were() {
        fn back<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(value: T) {
            assert_eq!(decode::<T>(&encode(&value).unwrap()).unwrap(), value);
        }
        back(());
        back(Some("text \u{10ffff} \0".to_owned()));
        back(None::<String>);
        back(u64::MAX);
        back(i64::MIN);
        back(1e300);
        back(vec![Some(1.5), None]);
        back(HashMap::from([("a".to_owned(), (1, true))]));
        back(std::path::PathBuf::from("/a/b"));
        back(Err::<u8, String>("no".to_owned()));
    }

    #[test]
    fn not_a_number_is_refused_with_its_place_and_never_stored_as_null() {
        let deep = HashMap::from([("rows", vec![(1, 0.5), (2, f64::NAN)])]);
        assert_eq!(encode(&deep).unwrap_err(), "NaN is not a number that can be stored at [\"rows\"][1][1]");
        assert!(encode(&f64::INFINITY).is_err());
        assert!(encode(&Some(f32::NEG_INFINITY)).is_err());
    }

    #[test]
    fn inputs_are_named_values_in_order_of_name() {
        let named = inputs(&serde_json::json!({"b": 1, "a": "x"})).unwrap();
        let names: Vec<&str> = named.iter().map(|(name, _)| &**name).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(inputs(&[("b", 1), ("a", 2)]).unwrap().len(), 2);
        assert!(inputs(&()).unwrap().is_empty());
        assert!(inputs(&3).unwrap_err().0.contains("named values"));
        assert!(inputs(&[("a", 1), ("a", 2)]).unwrap_err().0.contains("'a' is given twice"));
        assert!(inputs(&HashMap::from([("x", f64::NAN)])).unwrap_err().0.contains("[\"x\"]"));
    }
}
