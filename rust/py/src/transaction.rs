//! A step that a transaction of the user's records, as `bide/_transactions.py` carries it out: begun as any other step,
//! executed and recorded there, and then ended here.

use std::sync::Arc;

use bide_core::attempt::{Call, Fed};
use bide_core::record::StepRecord;
use bide_core::{EntryKey, Value};
use bide_executor::store::{Lease, Store, StoreError};
use bide_executor::{CallError, StepEnd, StepRequest, StepStart};
use bide_sync::Mutex;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyTuple};

use crate::aio::PyCall;
use crate::errors;
use crate::gil;
use crate::handle::PyTaskHandle;
use crate::panics;
use crate::step::Described;
use crate::value::Codec;

/// Where the record of a step belongs, for a table in another database: the run, the element, the name, its use, the
/// number of the last checkpoint, and the proof of the arguments.
type Place<'py> = (String, i32, String, u32, u32, Option<Bound<'py, PyBytes>>);

/// A step that is being executed.
#[pyclass(frozen, module = "bide._core", name = "OpenStep")]
pub(crate) struct PyOpenStep {
    /// Its name.
    name: String,
    /// How its result is stored.
    codec: Codec,
    /// Whose it is.
    of: Of,
}

/// The body whose step it is.
enum Of {
    /// A plain function, with its call until that has ended.
    Thread(Py<PyTaskHandle>, Mutex<Option<Box<Call>>>),
    /// A coroutine, whose call `bide/_async_calls.py` carries out.
    Coroutine(Py<PyCall>),
}

impl PyOpenStep {
    /// Begins a step of a plain function; the value of one that is recorded.
    pub(crate) fn begin<'py>(handle: &Bound<'py, PyTaskHandle>, described: Described) -> PyResult<Bound<'py, PyAny>> {
        let (py, own) = (handle.py(), handle.get());
        let (name, proof, codec, key, _) = described;
        let request = StepRequest { key: key.map(Into::into), ..StepRequest::plain(proof.map(Into::into)) };
        let started = own.body().begin_step(&mut own.here(py), &name.as_str().into(), request, &mut || None);
        match started.map_err(|error| own.error(py, &error))? {
            StepStart::Returned(value) => Ok(codec.decode(py, &value)?.into_bound()),
            StepStart::Execute(call) => {
                let of = Of::Thread(handle.clone().unbind(), Mutex::new(Some(call)));
                Ok(Bound::new(py, Self { name, codec, of })?.into_any())
            }
        }
    }

    /// The record of the step, if it returned this, and the lease for that; and the store.
    fn record(&self, py: Python<'_>, value: Value) -> PyResult<(Arc<dyn Store>, Lease, StepRecord)> {
        match &self.of {
            Of::Thread(handle, call) => {
                let own = handle.get();
                let recorded = match &*call.lock() {
                    Some(call) => own.body().step_record(call, value),
                    None => Err(CallError::Suspended),
                };
                let (lease, record) = recorded.map_err(|error| own.error(py, &error))?;
                Ok((own.body().engine().store(), lease, record))
            }
            Of::Coroutine(call) => {
                let (coroutine, call) = call.get().parts();
                let own = coroutine.get();
                let body = own.body()?;
                let (lease, record) = body.step_record(call, value).map_err(|error| own.error(py, &error))?;
                Ok((body.engine().store(), lease, record))
            }
        }
    }

    /// The call of a plain function's step, which ends now.
    fn take(&self) -> Option<(&PyTaskHandle, Box<Call>)> {
        match &self.of {
            Of::Thread(handle, call) => call.lock().take().map(|call| (handle.get(), call)),
            Of::Coroutine(_) => None,
        }
    }
}

#[pymethods]
impl PyOpenStep {
    /// The step of a coroutine, which this call is to execute.
    #[new]
    fn new(py: Python<'_>, name: String, call: Py<PyCall>) -> PyResult<Self> {
        let codec = call.get().step_codec(py);
        let codec = codec.ok_or_else(|| pyo3::exceptions::PyTypeError::new_err("the call is no step"))?;
        Ok(Self { name, codec, of: Of::Coroutine(call) })
    }

    #[getter]
    fn name(&self) -> &str {
        &self.name
    }

    /// Where its record belongs.
    fn place<'py>(&self, py: Python<'py>) -> PyResult<Place<'py>> {
        panics::method(|| {
            let (_, _, record) = self.record(py, Value::NONE)?;
            let run = match &self.of {
                Of::Thread(handle, _) => handle.get().body().run().id,
                Of::Coroutine(call) => call.get().parts().0.get().body()?.run().id,
            };
            let EntryKey { name, n } = &record.entry.key;
            let proof = record.entry.operation.stored_proof().map(|proof| PyBytes::new(py, &proof));
            Ok((run.to_string(), record.map, name.to_string(), *n, record.turn, proof))
        })
    }

    /// The store, as it may be shown.
    fn store(&self, py: Python<'_>) -> PyResult<String> {
        panics::method(|| Ok(self.record(py, Value::NONE)?.0.name().to_owned()))
    }

    /// An expression that a transaction in the store's database answers so. Blocks.
    fn database(&self, py: Python<'_>) -> PyResult<Option<(String, String)>> {
        panics::method(|| {
            let (store, ..) = self.record(py, Value::NONE)?;
            let database = gil::detached(py, || store.database()).map_err(|error| errors::store(py, &error))?;
            Ok(database.map(|database| (database.question, database.answer)))
        })
    }

    /// The statement that records it in the store's database.
    fn statement(&self, py: Python<'_>, marker: &str, value: &[u8]) -> PyResult<String> {
        panics::method(|| {
            let (store, lease, record) = self.record(py, Value::new(value))?;
            let statement = store.record_statement(lease, &record, marker);
            statement.ok_or_else(|| errors::bide(py, &format!("no transaction can write in {}", store.name())))
        })
    }

    /// Whether the runner still has the run, and what is recorded in the store's database, once no transaction is open
    /// any more that may record it. Blocks.
    fn outcome<'py>(&self, py: Python<'py>) -> PyResult<(bool, Option<Bound<'py, PyBytes>>)> {
        panics::method(|| {
            let (store, lease, record) = self.record(py, Value::NONE)?;
            match gil::detached(py, || store.recorded_step(lease, &record)) {
                Ok(value) => Ok((true, value.map(|value| PyBytes::new(py, value.as_bytes())))),
                Err(StoreError::Fenced { .. }) => Ok((false, None)),
                Err(error) => Err(errors::store(py, &error)),
            }
        })
    }

    /// What it has returned, as it is stored.
    fn encode<'py>(&self, value: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyBytes>> {
        panics::method(|| Ok(PyBytes::new(value.py(), self.codec.encode(value)?.as_bytes())))
    }

    /// The value that is stored so.
    fn decode<'py>(&self, py: Python<'py>, value: &[u8]) -> PyResult<Bound<'py, PyAny>> {
        panics::method(|| Ok(self.codec.decode(py, &Value::new(value))?.into_bound()))
    }

    /// Calls its function. Of a plain function's step.
    #[pyo3(signature = (function, arguments, keywords))]
    fn execute<'py>(
        &self,
        function: &Bound<'py, PyAny>,
        arguments: &Bound<'py, PyTuple>,
        keywords: &Bound<'py, PyDict>,
    ) -> PyResult<Bound<'py, PyAny>> {
        panics::method(|| match &self.of {
            Of::Thread(handle, _) => {
                let value = handle.get().call_step(&self.name, function, arguments, Some(keywords))?;
                Ok(value.into_bound())
            }
            Of::Coroutine(_) => Ok(gil::call(function, arguments, Some(keywords))?.into_bound()),
        })
    }

    /// It is recorded: commits that it has returned this. Of a coroutine's step: once its call is awaited.
    fn finish(&self, py: Python<'_>, value: &[u8]) -> PyResult<()> {
        panics::method(|| {
            let value = Ok(Value::new(value));
            if let Of::Coroutine(call) = &self.of {
                return call.get().step_ends(py, Fed::Executed(value));
            }
            let Some((own, call)) = self.take() else { return Ok(()) };
            let ended = own.body().end_step(&mut own.here(py), call, StepEnd::Executed(value));
            ended.map(drop).map_err(|error| own.error(py, &error))
        })
    }

    /// Another runner has the run: the body has to return.
    fn lose(&self, py: Python<'_>) -> PyResult<()> {
        panics::method(|| {
            if let Of::Coroutine(call) = &self.of {
                return call.get().step_ends(py, Fed::LeaseLost);
            }
            let Some((own, call)) = self.take() else { return Ok(()) };
            Err(own.error(py, &own.body().lose_step(call)))
        })
    }

    /// Leaves it without a record. Of a plain function's step.
    fn abandon(&self) {
        if let Some((own, call)) = self.take() {
            own.body().abandon_step(call);
        }
    }
}
