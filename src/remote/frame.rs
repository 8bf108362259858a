//! The frames that both directions of the protocol carry. Owns bytes on a stream, knows no message.

use serde::{Serialize, de::DeserializeOwned};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

const MESSAGE: u8 = b'J';
const CONTENT: u8 = b'B';
/// Larger than any archive that is sent; a length beyond it is noise on the stream.
const LENGTH_MAX: u32 = 1 << 30;

/// One unit on the stream.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    /// A message in JSON; [`Frame::decode`] reads it.
    Message(Vec<u8>),
    Content(Vec<u8>),
}

/// Why a frame could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("the connection broke")]
    Io(#[from] std::io::Error),
    /// Most often a login script that prints.
    #[error("expected a frame, found `{0}`; does a login script on the host print something?")]
    Noise(String),
    #[error("a frame of {0} bytes is more than {LENGTH_MAX}")]
    TooLong(u64),
    #[error("the two halves do not understand each other: {0}")]
    Message(#[from] serde_json::Error),
    #[error("expected a message, found a content")]
    UnexpectedContent,
}

impl Frame {
    /// The message in this frame.
    pub fn decode<T: DeserializeOwned>(&self) -> Result<T, FrameError> {
        match self {
            Frame::Message(body) => Ok(serde_json::from_slice(body)?),
            Frame::Content(_) => Err(FrameError::UnexpectedContent),
        }
    }
}

/// Writes a message; the caller flushes.
pub async fn write_message<T: Serialize>(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &T,
) -> Result<(), FrameError> {
    write(stream, MESSAGE, &serde_json::to_vec(message)?).await
}

/// Writes a content; the message that announces it comes before. The caller flushes.
pub async fn write_content(stream: &mut (impl AsyncWrite + Unpin), content: &[u8]) -> Result<(), FrameError> {
    write(stream, CONTENT, content).await
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), kind: u8, body: &[u8]) -> Result<(), FrameError> {
    let length = u32::try_from(body.len()).ok().filter(|length| *length <= LENGTH_MAX);
    let length = length.ok_or(FrameError::TooLong(body.len() as u64))?;
    let mut head = [kind, 0, 0, 0, 0];
    head[1..].copy_from_slice(&length.to_be_bytes());
    stream.write_all(&head).await?;
    stream.write_all(body).await?;
    Ok(())
}

/// The next frame; none when the stream ended between frames.
pub async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Option<Frame>, FrameError> {
    let mut head = [0; 5];
    if stream.read(&mut head[..1]).await? == 0 {
        return Ok(None);
    }
    if head[0] != MESSAGE && head[0] != CONTENT {
        let mut noise = vec![head[0]];
        let mut rest = stream.take(200);
        // What could be read of the noise tells more than the error that ended it.
        let _ = rest.read_buf(&mut noise).await;
        let text = String::from_utf8_lossy(&noise);
        return Err(FrameError::Noise(text.lines().next().unwrap_or_default().to_owned()));
    }
    stream.read_exact(&mut head[1..]).await?;
    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
    if length > LENGTH_MAX {
        return Err(FrameError::TooLong(length.into()));
    }
    let mut body = vec![0; length as usize];
    stream.read_exact(&mut body).await?;
    Ok(Some(if head[0] == MESSAGE { Frame::Message(body) } else { Frame::Content(body) }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[tokio::test]
    async fn frames_survive_the_stream() {
        let mut stream = Vec::new();
        write_message(&mut stream, &json!({"a": 1})).await.expect("written");
        write_content(&mut stream, &[0, 255, b'J']).await.expect("written");
        let mut stream = stream.as_slice();
        let frame = read(&mut stream).await.expect("readable").expect("a frame");
        assert_eq!(frame.decode::<Value>().expect("a message"), json!({"a": 1}));
        assert_eq!(read(&mut stream).await.expect("readable"), Some(Frame::Content(vec![0, 255, b'J'])));
        assert_eq!(read(&mut stream).await.expect("the end"), None);
    }

    #[tokio::test]
    async fn noise_and_truncation_are_told_apart_from_the_end() {
        let noise = read(&mut b"Last login: today\nJ".as_slice()).await.expect_err("noise");
        insta::assert_snapshot!(noise, @"expected a frame, found `Last login: today`; does a login script on the host print something?");
        assert!(matches!(read(&mut b"J\0\0\0\x09abc".as_slice()).await, Err(FrameError::Io(_))));
        assert!(matches!(read(&mut b"B\xff\xff\xff\xff".as_slice()).await, Err(FrameError::TooLong(_))));
    }
}
