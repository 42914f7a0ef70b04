//! What must be true of the verdicts over a whole call.

use super::court::Wrong;
use super::judge::Verdict;
use super::scene::{Effect, Scene, State};
use crate::common::handle::Status;
use ::mempool::abi::MEMPOOL_OK;

/// So many states of a call that makes a block, or a pool, show it: that after the store that delivers
/// it, and the one that follows, of the magazine's count or the lock.
const DELIVERED_MAX: usize = 2;

/// The verdicts over a call's instants go one way, from old to new, and end where its answer says.
pub fn agree(
    scene: &Scene,
    status: Status,
    block: u64,
    verdicts: &[(u64, Verdict)],
) -> Result<(), Wrong> {
    for pair in verdicts.windows(2) {
        let ((_, earlier), (point, later)) = (pair[0], pair[1]);
        let same_caches = later.agrees(&Verdict { cached: earlier.cached, ..later });
        if later.state < earlier.state || !same_caches {
            let said = format!("{later:?}, but {earlier:?} just before");
            return Err(Wrong { point, said });
        }
    }
    for &(point, verdict) in verdicts {
        if verdict.block != 0 && verdict.block != block {
            let said = format!("{verdict:?}, but the call returned {block}");
            return Err(Wrong { point, said });
        }
    }
    let Some(&(point, last)) = verdicts.last() else { return Ok(()) };
    let delivered = verdicts.iter().filter(|(_, verdict)| verdict.state == State::New).count();
    let delivers = matches!(scene.effect(), Effect::Adds { .. } | Effect::Birth);
    if delivers && delivered > DELIVERED_MAX {
        let said = format!("what the call makes is there for the last {delivered} of its states");
        return Err(Wrong { point, said });
    }
    let nothing = match scene.effect() {
        Effect::Nothing => true,
        // It had the room already.
        Effect::Replaces { slot, size } => {
            let old = scene.known[slot];
            block == old.offset && old.size >= size as u64 && last.state == State::Old
        }
        Effect::RemovesAll => scene.blocks().next().is_none(),
        Effect::Names => scene.bound == scene.bound_after(),
        _ => false,
    };
    let expected = if status == MEMPOOL_OK && !nothing { State::New } else { State::Old };
    if last.state != expected {
        let said = format!("{last:?} at the end of a call that returned {status}");
        return Err(Wrong { point, said });
    }
    Ok(())
}
