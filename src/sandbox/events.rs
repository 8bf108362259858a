//! What is told while a sandbox is made, for whoever shows progress.

use super::Image;
use crate::model::HostName;
use std::time::Duration;

/// Something that happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// An image is being built; this takes the longest and happens once per image.
    BuildingImage(Image),
    ImageBuilt(Image, Duration),
    /// Another run builds the image; this one waits for it.
    WaitingForImage(Image),
    /// The host answers on its SSH port.
    HostUp(HostName, Duration),
    HostDown(HostName),
    /// The host did not shut down by itself in time; its power was cut.
    HostForcedDown(HostName, Duration),
}
