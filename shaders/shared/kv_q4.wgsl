//!import kv_codes
fn key_pair(head: u32, i: u32) -> vec2<f32> { return pair_4(head, i); }
fn value_pair(head: u32, i: u32) -> vec2<f32> { return pair_4(head, i); }
