use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt::Debug;

fn digest<K: Ord + Debug, V: Debug>(pairs: impl IntoIterator<Item = (K, V)>) -> usize {
    let sorted: BTreeMap<K, V> = pairs.into_iter().collect();
    sorted.iter().map(|(key, value)| format!("{key:?}={value:?}").len()).sum()
}

fn main() {
    let words: Vec<String> = (0..20_000u64).map(|i| (i * 7919 % 20_011).to_string()).collect();
    let lengths: HashMap<&str, usize> = words.iter().map(|word| (word.as_str(), word.len())).collect();
    let ends: HashSet<char> = words.iter().filter_map(|word| word.chars().last()).collect();
    let mut queue: VecDeque<String> = words.iter().take(1000).cloned().collect();
    queue.rotate_left(100);
    let threads: Vec<_> = (0..4)
        .map(|i| {
            let words = words.clone();
            std::thread::spawn(move || digest(words.into_iter().skip(i).map(|word| (word.clone(), word))))
        })
        .collect();
    let sums: Vec<usize> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    println!("{} {} {:?} {:?}", digest(lengths), ends.len(), queue.front(), sums);
}
