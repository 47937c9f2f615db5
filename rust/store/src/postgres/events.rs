//! Reading what live runs show: the events of their channels.

use std::sync::Arc;

use bide_core::{RunId, StoredEvents, Time};

use super::PostgresStore;
use super::fields::Fields;
use super::session::{Text, Uuid};
use crate::{EventRange, StoreError};

const EXISTS: &str = "SELECT 1 FROM bide.run WHERE id = $1::int8 AND uuid = $2::uuid";
macro_rules! event_columns {
    () => {
        "SELECT ARRAY[e.first, e.count, e.map, e.attempt, e.emitted_at]::int8[], ARRAY[n.name, e.entry]::text[], \
         ARRAY[e.packed]::bytea[] FROM bide.event e LEFT JOIN bide.run r ON r.id = e.run \
         LEFT JOIN bide.task_name n ON n.workflow = r.workflow AND n.task = e.task "
    };
}
/// From the row that has the next event.
const AFTER: &str = concat!(
    event_columns!(),
    "WHERE e.run = $1::int8 AND e.channel = $2::text AND e.first >= coalesce((SELECT max(o.first) FROM bide.event o \
     WHERE o.run = $1::int8 AND o.channel = $2::text AND o.first <= $3::int8), 0) ORDER BY e.first LIMIT $4::int8"
);
const LAST: &str =
    concat!(event_columns!(), "WHERE e.run = $1::int8 AND e.channel = $2::text ORDER BY e.first DESC LIMIT 1");

const CHANNELS: &str = "SELECT DISTINCT e.channel FROM bide.event e JOIN bide.run r ON r.id = e.run \
     WHERE r.id = $1::int8 AND r.uuid = $2::uuid ORDER BY e.channel";

impl PostgresStore {
    pub(super) fn read_channels(&self, run: RunId) -> Result<Vec<Arc<str>>, StoreError> {
        self.connections.reader(|session| {
            let rows = session.query(CHANNELS, &[&run.row(), &Uuid(run.0)])?;
            rows.iter().map(|row| Ok(row.try_get::<_, Text<'_>>(0)?.0.as_ref().into())).collect()
        })
    }

    pub(super) fn read_events(
        &self,
        run: RunId,
        channel: &str,
        range: EventRange,
    ) -> Result<Option<Vec<StoredEvents>>, StoreError> {
        self.connections.reader(|session| {
            if session.query_opt(EXISTS, &[&run.row(), &Uuid(run.0)])?.is_none() {
                return Ok(None);
            }
            let channel = Text::from(channel);
            let (after, most, rows) = match range {
                EventRange::Last => (None, 1, session.query(LAST, &[&run.row(), &channel])?),
                EventRange::After { offset, most } => {
                    let after = i64::try_from(offset).unwrap_or(i64::MAX);
                    // Each row has an event at least, and the first row may be before the range.
                    let rows = i64::try_from(most).unwrap_or(i64::MAX).saturating_add(1);
                    let rows = session.query(AFTER, &[&run.row(), &channel, &after.saturating_add(1), &rows])?;
                    (Some(after), most, rows)
                }
            };
            let (mut found, mut count) = (Vec::new(), 0);
            for row in &rows {
                if count >= most {
                    break;
                }
                let fields = Fields::read(row, 0, self.name_str(), run, "event")?;
                let events = stored(&fields)?;
                if after.is_none_or(|after| events.last() > after.unsigned_abs()) {
                    count += events.count as usize;
                    found.push(events);
                }
            }
            Ok(Some(found))
        })
    }
}

fn stored(fields: &Fields<'_>) -> Result<StoredEvents, StoreError> {
    Ok(StoredEvents {
        first: fields.number(0, "first")?,
        count: fields.number(1, "count")?,
        task: fields.text(0, "task")?,
        map: fields.number(2, "map")?,
        attempt: fields.number(3, "attempt")?,
        entry: fields.some_text(1),
        emitted_at: Time(fields.number(4, "emitted_at")?),
        packed: fields.bytes(0).map(Into::into).ok_or_else(|| fields.corrupt("packed", &"it is NULL"))?,
    })
}
