//! Mending packs: a footer is written anew from the records; a pack with a damaged record is written anew from the others, and
//! set aside as it is.

use std::path::Path;

use super::Repair;
use crate::model::ChunkId;
use crate::model::mending::mend_bit;
use crate::store::error::StoreError;
use crate::store::index::{Index, Places};
use crate::store::pack::{HEADER_LEN, Header, Place, encode_footer, flipped_bits};
use crate::store::packs::{FOLDER, Limits, Packs, Survey, path_of};

/// A record that goes into the new pack.
struct Record {
    id: ChunkId,
    header: Header,
    payload: Vec<u8>,
}

impl Repair {
    /// Mends every pack that needs it.
    pub(super) fn packs(&mut self, root: &Path) -> Result<(), StoreError> {
        let (packs, _) = Packs::open(
            self.disk.clone(),
            Index::new(root.join("index")),
            Limits::default(),
        )?;
        for (number, survey) in packs.surveys()? {
            let survey = survey?;
            let bad: Places = survey
                .places
                .iter()
                .filter(|(id, place)| is_bad(&packs, id, number, place))
                .copied()
                .collect();
            let is_whole = survey.problems.is_empty() && survey.notes.is_empty();
            if is_whole && bad.is_empty() {
                continue;
            }
            let end = survey.places.last().map_or(0, |(_, place)| place.end());
            // A record whose header is damaged may be the last one: it is not the footer's.
            let is_all = survey.is_contiguous() && (!survey.is_finished || end == survey.end);
            if bad.is_empty() && survey.notes.is_empty() && is_all {
                packs.replace_footer(number, &survey.places, end)?;
                self.mended(format!(
                    "'{}' at byte {end}: the footer was damaged; it is written anew",
                    path_of(number)
                ));
            } else {
                self.rewrite(&packs, number, &survey, &bad)?;
            }
        }
        Ok(())
    }

    /// Copies what is whole into a new pack, then sets the old one aside.
    fn rewrite(
        &mut self,
        packs: &Packs,
        number: u32,
        survey: &Survey,
        bad: &Places,
    ) -> Result<(), StoreError> {
        let path = path_of(number);
        let mut said = Vec::new();
        let next = packs.files()?.last().map_or(1, |(last, _)| last + 1);
        let new = path_of(next);
        let tmp = format!("{new}.tmp");
        let _ = self.disk.remove(&tmp);
        let (mut places, mut at) = (Places::new(), 0);
        let mut write = |record: &Record, said_at: &mut u64| -> Result<(), StoreError> {
            let bytes = [record.header.encode().as_slice(), &record.payload].concat();
            let place = Place {
                offset: *said_at,
                raw_len: record.header.raw_len,
                stored_len: record.header.stored_len,
            };
            places.push((record.id, place));
            *said_at += bytes.len() as u64;
            self.disk
                .append(&tmp, &bytes)
                .map_err(StoreError::io("write", &tmp))
        };
        let mut end = 0;
        for (id, place) in &survey.places {
            if place.offset > end {
                let gap = (end, place.offset);
                self.mend_headers(packs, number, gap, &mut said, &mut |one| {
                    write(one, &mut at)
                })?;
            }
            end = place.end();
            let record = packs.record_at(id, number, place)?;
            let (header, mut payload) = record;
            if bad
                .iter()
                .any(|(other, where_)| (other, where_) == (id, place))
            {
                let where_ = format!("'{path}' at byte {}: chunk {id}", place.offset);
                if mend_payload(packs, &header, &mut payload) {
                    said.push(format!("{where_}: one bit was flipped"));
                } else if packs.read(id).is_ok() {
                    said.push(format!("{where_} is damaged, another copy is whole"));
                    continue;
                } else {
                    said.push(format!(
                        "{where_} is damaged and set aside: seal its content again to bring it back"
                    ));
                    continue;
                }
            }
            let record = Record {
                id: *id,
                header,
                payload,
            };
            write(&record, &mut at)?;
        }
        if survey.end > end {
            self.mend_headers(packs, number, (end, survey.end), &mut said, &mut |one| {
                write(one, &mut at)
            })?;
        }
        if !places.is_empty() {
            let footer = encode_footer(&places, at);
            self.disk
                .append(&tmp, &footer)
                .and_then(|()| self.disk.sync(&tmp))
                .and_then(|()| self.disk.rename(&tmp, &new))
                .and_then(|()| self.disk.sync(FOLDER))
                .map_err(StoreError::io("write", &new))?;
        }
        let aside = self.set_aside(&path)?;
        self.disk
            .sync(FOLDER)
            .map_err(StoreError::io("sync", FOLDER))?;
        said.into_iter().for_each(|what| self.mended(what));
        let count = places.len();
        self.mended(format!(
            "'{path}' was damaged: its {count} whole records are in '{new}', the old file is '{aside}'"
        ));
        Ok(())
    }

    /// Records in a gap of which one bit of the header is flipped.
    fn mend_headers(
        &self,
        packs: &Packs,
        number: u32,
        gap: (u64, u64),
        said: &mut Vec<String>,
        write: &mut dyn FnMut(&Record) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let path = path_of(number);
        let (mut at, end) = gap;
        while at + HEADER_LEN as u64 <= end {
            let bytes = self
                .disk
                .read_at(&path, at, HEADER_LEN)
                .map_err(StoreError::io("read", &path))?;
            let fits = |tried: &[u8]| Header::decode(tried).is_ok();
            let mended = mend_bit(&bytes, fits).and_then(|(_, bytes)| Header::decode(&bytes).ok());
            let Some(header) = mended.filter(|header| at + header.record_len() <= end) else {
                return Ok(());
            };
            let payload = self
                .disk
                .read_at(&path, at + HEADER_LEN as u64, header.stored_len as usize)
                .map_err(StoreError::io("read", &path))?;
            if packs.open_record(&header, &payload).is_ok() {
                said.push(format!(
                    "'{path}' at byte {at}: one bit was flipped in the header of chunk {}",
                    header.id
                ));
                write(&Record {
                    id: header.id,
                    header,
                    payload,
                })?;
            }
            at += header.record_len();
        }
        Ok(())
    }
}

fn is_bad(packs: &Packs, id: &ChunkId, number: u32, place: &Place) -> bool {
    match packs.check_payload(id, number, place) {
        Some(answer) => answer.is_err(),
        // An older record: it is bad if it is its own bytes that are wrong.
        None => matches!(
            packs.check_record(id, number, place),
            Err(StoreError::DamagedChunk { id: bad, .. }) if bad == *id
        ),
    }
}

/// Sets right the one bit that is flipped, if it is one.
fn mend_payload(packs: &Packs, header: &Header, payload: &mut [u8]) -> bool {
    for (at, bit) in flipped_bits(payload, header.payload_check) {
        payload[at] ^= bit;
        if packs.open_record(header, payload).is_ok() {
            return true;
        }
        payload[at] ^= bit;
    }
    false
}
