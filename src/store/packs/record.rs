//! A chunk's record as it is stored, for copies of a store.

use super::super::compress::{Aid, compress};
use super::super::pack::{Codec, Encoded};
use super::Packs;
use crate::model::ChunkId;
use crate::store::StoreError;

impl Packs {
    /// The chunk's record and its raw bytes, verified against the id. A chunk whose newest record cannot be read comes from
    /// another copy of it, compressed alone.
    pub fn verified_record(&self, id: &ChunkId) -> Result<(Encoded, Vec<u8>), StoreError> {
        if let Some((pack, place)) = self.place_of(id)?
            && let Ok((header, payload)) = self.record_at(id, pack, &place)
            && let Ok(raw) = self.open_record(&header, &payload)
        {
            return Ok((Encoded { header, payload }, raw));
        }
        let raw = self.read(id)?;
        let packed = compress(&raw, Aid::Alone).map(|packed| (Codec::Zstd, packed));
        Ok((Encoded::new(*id, &raw, packed), raw))
    }

    /// True where a record of this codec can be read from these packs: what it leans on is present, and leans on no more than
    /// a reader follows.
    pub fn can_lean(&self, codec: &Codec) -> Result<bool, StoreError> {
        let codec_of = |id| Ok::<_, StoreError>(self.any_header(id)?.map(|header| header.codec));
        Ok(match codec {
            Codec::Raw | Codec::Zstd => true,
            Codec::ZstdWith(dictionary) => {
                matches!(codec_of(dictionary)?, Some(Codec::Raw | Codec::Zstd))
            }
            Codec::ZstdLike(base) => match codec_of(base)? {
                Some(Codec::ZstdLike(_)) | None => false,
                Some(below) => self.can_lean(&below)?,
            },
        })
    }
}
