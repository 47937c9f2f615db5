//! What a serialisable value is made of: one walk that distinguishes scalars from compounds and refuses NaN and
//! infinity, which JSON would silently turn into `null`, naming where they are.

use std::fmt;

use serde::ser::{self, Serialize};

/// A value's outermost shape; scalars carry their value.
#[derive(Debug)]
pub(super) enum Shape {
    None,
    Bool(bool),
    Int(i128),
    BigInt(u128),
    Float(f64),
    Text(String),
    Compound,
}

/// Walks a value.
pub(super) fn shape_of<T: Serialize + ?Sized>(value: &T) -> Result<Shape, NotStorable> {
    value.serialize(Walk)
}

/// Why a value cannot be stored, and where in it.
#[derive(Debug)]
pub(super) struct NotStorable {
    /// What cannot be stored, for the error.
    what: String,
    /// From the innermost step outwards.
    path: Vec<String>,
}

impl NotStorable {
    fn at(mut self, step: impl FnOnce() -> String) -> Self {
        self.path.push(step());
        self
    }
}

impl fmt::Display for NotStorable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)?;
        if !self.path.is_empty() {
            f.write_str(" at ")?;
            self.path.iter().rev().try_for_each(|step| f.write_str(step))?;
        }
        Ok(())
    }
}

impl std::error::Error for NotStorable {}

impl ser::Error for NotStorable {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self { what: message.to_string(), path: Vec::new() }
    }
}

struct Walk;

/// The members of a sequence, tuple, map or struct.
struct Members {
    index: usize,
    key: Option<String>,
}

type Outcome = Result<Shape, NotStorable>;

const MEMBERS: Members = Members { index: 0, key: None };

impl Members {
    fn item<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), NotStorable> {
        let index = self.index;
        self.index += 1;
        shape_of(value).map(drop).map_err(|error| error.at(|| format!("[{index}]")))
    }

    fn field<T: Serialize + ?Sized>(&mut self, name: &str, value: &T) -> Result<(), NotStorable> {
        shape_of(value).map(drop).map_err(|error| error.at(|| format!(".{name}")))
    }
}

macro_rules! integers {
    ($($method:ident: $type:ty),+) => {
        $(fn $method(self, value: $type) -> Outcome {
            Ok(Shape::Int(value.into()))
        })+
    };
}

impl ser::Serializer for Walk {
    type Ok = Shape;
    type Error = NotStorable;
    type SerializeSeq = Members;
    type SerializeTuple = Members;
    type SerializeTupleStruct = Members;
    type SerializeTupleVariant = Members;
    type SerializeMap = Members;
    type SerializeStruct = Members;
    type SerializeStructVariant = Members;

    integers!(serialize_i8: i8, serialize_i16: i16, serialize_i32: i32, serialize_i64: i64, serialize_i128: i128);
    integers!(serialize_u8: u8, serialize_u16: u16, serialize_u32: u32, serialize_u64: u64);

    fn serialize_u128(self, value: u128) -> Outcome {
        Ok(Shape::BigInt(value))
    }

    fn serialize_bool(self, value: bool) -> Outcome {
        Ok(Shape::Bool(value))
    }

    fn serialize_f32(self, value: f32) -> Outcome {
        // By its shortest decimal form, not by the digits that widening would add.
        if value.is_finite() {
            Ok(Shape::Float(value.to_string().parse().unwrap_or(f64::from(value))))
        } else {
            self.serialize_f64(value.into())
        }
    }

    fn serialize_f64(self, value: f64) -> Outcome {
        if value.is_finite() {
            return Ok(Shape::Float(value));
        }
        Err(ser::Error::custom(format!("{value} is not a number that can be stored")))
    }

    fn serialize_char(self, value: char) -> Outcome {
        Ok(Shape::Text(value.to_string()))
    }

    fn serialize_str(self, value: &str) -> Outcome {
        Ok(Shape::Text(value.to_owned()))
    }

    fn serialize_bytes(self, _value: &[u8]) -> Outcome {
        Ok(Shape::Compound)
    }

    fn serialize_none(self) -> Outcome {
        Ok(Shape::None)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Outcome {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Outcome {
        Ok(Shape::None)
    }

    fn serialize_unit_struct(self, _name: &'static str) -> Outcome {
        Ok(Shape::None)
    }

    fn serialize_unit_variant(self, _name: &'static str, _index: u32, variant: &'static str) -> Outcome {
        Ok(Shape::Text(variant.to_owned()))
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _name: &'static str, value: &T) -> Outcome {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _name: &'static str,
        _index: u32,
        variant: &'static str,
        value: &T,
    ) -> Outcome {
        let mut members = MEMBERS;
        members.field(variant, value)?;
        Ok(Shape::Compound)
    }

    fn serialize_seq(self, _len: Option<usize>) -> Result<Members, NotStorable> {
        Ok(MEMBERS)
    }

    fn serialize_tuple(self, _len: usize) -> Result<Members, NotStorable> {
        Ok(MEMBERS)
    }

    fn serialize_tuple_struct(self, _name: &'static str, _len: usize) -> Result<Members, NotStorable> {
        Ok(MEMBERS)
    }

    fn serialize_tuple_variant(
        self,
        _name: &'static str,
        _index: u32,
        _variant: &'static str,
        _len: usize,
    ) -> Result<Members, NotStorable> {
        Ok(MEMBERS)
    }

    fn serialize_map(self, _len: Option<usize>) -> Result<Members, NotStorable> {
        Ok(MEMBERS)
    }

    fn serialize_struct(self, _name: &'static str, _len: usize) -> Result<Members, NotStorable> {
        Ok(MEMBERS)
    }

    fn serialize_struct_variant(
        self,
        _name: &'static str,
        _index: u32,
        _variant: &'static str,
        _len: usize,
    ) -> Result<Members, NotStorable> {
        Ok(MEMBERS)
    }
}

macro_rules! sequences {
    ($($trait:ident: $method:ident),+) => {
        $(impl ser::$trait for Members {
            type Ok = Shape;
            type Error = NotStorable;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), NotStorable> {
                self.item(value)
            }

            fn end(self) -> Outcome {
                Ok(Shape::Compound)
            }
        })+
    };
}

macro_rules! structs {
    ($($trait:ident),+) => {
        $(impl ser::$trait for Members {
            type Ok = Shape;
            type Error = NotStorable;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                name: &'static str,
                value: &T,
            ) -> Result<(), NotStorable> {
                self.field(name, value)
            }

            fn end(self) -> Outcome {
                Ok(Shape::Compound)
            }
        })+
    };
}

sequences!(SerializeSeq: serialize_element, SerializeTuple: serialize_element);
sequences!(SerializeTupleStruct: serialize_field, SerializeTupleVariant: serialize_field);
structs!(SerializeStruct, SerializeStructVariant);

impl ser::SerializeMap for Members {
    type Ok = Shape;
    type Error = NotStorable;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), NotStorable> {
        self.key = match shape_of(key)? {
            Shape::Text(text) => Some(text),
            Shape::Int(int) => Some(int.to_string()),
            _ => None,
        };
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), NotStorable> {
        let key = self.key.take();
        shape_of(value).map(drop).map_err(|error| error.at(|| format!("[{:?}]", key.unwrap_or_default())))
    }

    fn end(self) -> Outcome {
        Ok(Shape::Compound)
    }
}
