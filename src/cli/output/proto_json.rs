//! Messages of the gRPC contract as JSON.

use crate::api::pb;
use prost::Message;
use prost_reflect::{DescriptorPool, DynamicMessage, SerializeOptions};
use serde_json::{Value, value::Serializer};

/// Renders messages as protobuf's JSON, with the default values, and with 64-bit integers as numbers.
pub(in crate::cli) struct ProtoJson {
    contract: DescriptorPool,
}

impl ProtoJson {
    pub(in crate::cli) fn new() -> Self {
        let contract = DescriptorPool::decode(pb::DESCRIPTOR);
        Self { contract: contract.expect("the build writes valid descriptors") }
    }

    /// The JSON of a message with this name in `entitlements.v1`.
    pub(in crate::cli) fn of(&self, name: &str, message: &impl Message) -> Value {
        let descriptor = self.contract.get_message_by_name(&format!("entitlements.v1.{name}"));
        let descriptor = descriptor.expect("the contract has each message that a command prints");
        let message = DynamicMessage::decode(descriptor, &*message.encode_to_vec());
        let message = message.expect("the message was encoded by the same contract");
        let options =
            SerializeOptions::new().stringify_64_bit_integers(false).skip_default_fields(false);
        let json = message.serialize_with_options(Serializer, &options);
        json.expect("a message of the contract has only times that JSON can express")
    }
}
