//! prost's codec with smaller buffers, which fit the messages of this service.

use prost::Message;
use std::marker::PhantomData;
use tonic::codec::{self, BufferSettings};
use tonic_prost::ProstCodec;

/// The initial size of a buffer, in bytes: an answer with its frame fits, and a larger message grows the buffer.
/// tonic's default is 8 KiB per message.
const BUFFER_LEN: usize = 256;
/// The number of encoded bytes at which a stream yields: tonic's default.
const YIELD_LEN: usize = 32 * 1024;

/// The codec of all methods; `build.rs` names it.
#[derive(Debug)]
pub struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> codec::Codec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = <ProstCodec<T, U> as codec::Codec>::Encoder;
    type Decoder = <ProstCodec<T, U> as codec::Codec>::Decoder;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(BUFFER_LEN, YIELD_LEN))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(BUFFER_LEN, YIELD_LEN))
    }
}
