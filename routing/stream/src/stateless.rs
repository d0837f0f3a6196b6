//! Answers that need no stream.
use crate::CloseReason;
use anode_wire::message::{Links, StreamMessage};

fn answer(links: Links, reason: CloseReason, number: u32) -> StreamMessage<'static> {
    StreamMessage::Close {
        links: Links {
            sender: links.receiver,
            receiver: links.sender,
        },
        flags: 0,
        reason: reason.code(),
        initial: number,
        sequence: number,
    }
}

/// The answer to a message for a stream that does not exist (Q22): S_CLOSE 0x10 with both numbers that of the message,
/// for S_ACK the first number it acknowledges. Never to an S_CLOSE, and not to an S_OPEN, which begins a stream. Only
/// to be sent inside SEALED: in plain nothing answers (D35).
pub fn reset_for(message: &StreamMessage<'_>) -> Option<StreamMessage<'static>> {
    let number = match message {
        StreamMessage::Data { sequence, .. } | StreamMessage::Dack { sequence, .. } => *sequence,
        StreamMessage::Ack { acks, .. } => acks.iter().next()?.0,
        StreamMessage::Open { .. } | StreamMessage::Close { .. } => return None,
    };
    Some(answer(message.links(), CloseReason::Reset, number))
}

/// The refusal of an S_OPEN (§5.2.2, D35): S_CLOSE with both numbers the refused one's. `None` for anything else.
pub fn refusal_for(
    message: &StreamMessage<'_>,
    reason: CloseReason,
) -> Option<StreamMessage<'static>> {
    match message {
        StreamMessage::Open { links, isn, .. } => Some(answer(*links, reason, *isn)),
        _ => None,
    }
}
