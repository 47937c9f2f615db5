//! How the server carries out the statements that this process has prepared: for tests, and for people who look why
//! something takes long.

use super::PostgresStore;
use super::error::Failed;
use super::session::Session;
use crate::StoreError;

const PREPARED: &str = "SELECT name, statement, cardinality(parameter_types)::int8 FROM pg_prepared_statements \
     WHERE NOT from_sql ORDER BY statement";

impl PostgresStore {
    /// Each statement that was prepared in the sessions of this process, with the lines of its plan.
    ///
    /// # Errors
    /// As [`crate::Store::load`].
    #[doc(hidden)]
    pub fn plans(&self) -> Result<Vec<(String, Vec<String>)>, StoreError> {
        let mut plans = self.connections.writer(explain)?;
        plans.extend(self.connections.reader(explain)?);
        plans.extend(self.connections.lease(explain)?);
        Ok(plans)
    }
}

fn explain(session: &mut Session<'_>) -> Result<Vec<(String, Vec<String>)>, Failed> {
    let mut plans = Vec::new();
    for row in session.query(PREPARED, &[])? {
        let (name, sql, parameters): (String, String, i64) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        let verbs = ["SELECT", "INSERT", "UPDATE", "DELETE", "WITH"];
        if sql == PREPARED || !verbs.iter().any(|verb| sql.starts_with(verb)) {
            continue;
        }
        let nulls = vec!["NULL"; usize::try_from(parameters).unwrap_or(0)].join(", ");
        let arguments = if parameters == 0 { String::new() } else { format!("({nulls})") };
        plans.push((sql, session.texts(&format!("EXPLAIN EXECUTE \"{name}\"{arguments}"))?));
    }
    Ok(plans)
}
