//! Mixing bits, for checksums and identities: not for secrets.
#![forbid(unsafe_code)]

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014): each bit of the input moves about half
/// of the output's.
pub fn mix(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// One number for a row of words; any single changed word changes it.
pub fn fold(words: impl IntoIterator<Item = u64>) -> u64 {
    words.into_iter().fold(0, |hash, word| mix(hash ^ word))
}
