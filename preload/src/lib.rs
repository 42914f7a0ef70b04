//! `LD_PRELOAD=libmempool_preload.so program`: an unmodified program runs with its whole heap in
//! one pool, in private memory or in a shared-memory object or file that others can look into.
//!
//! | module | noun |
//! |---|---|
//! | `arena` | memory for what the pool's handle itself needs, and for calls made while the pool is made |
//! | `text` | lines for the user, made without a heap |
//! | `settings` | what the environment asks for |
//! | `memory` | the pool's memory: private, shared, a file |
//! | `descriptor` | a descriptor that the program may close and use again
//! | `fork` | a child's own copy of shared memory |
//! | `heap` | the pool of this process, made at the first call |
//! | `calls` | `malloc`, `free` and their kin |
//! | `report` | what is said at exit |
//!
//! Nothing here may call what allocates, but through `arena`.

mod arena;
mod calls;
mod descriptor;
mod fork;
mod heap;
mod memory;
mod report;
mod settings;
mod text;
