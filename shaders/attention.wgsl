// Causal attention for GPUs, one workgroup per row and head: streaming softmax over tiles of 16
// logical positions. Four invocations share the score of a position, each owns up to two pairs of
// elements of the result.
//!import flat
//!import attention_params
//!import format
//!import bias

// Longest head, in pairs of elements.
const PAIRS_MAX = 128u;
var<workgroup> query: array<vec2<f32>, PAIRS_MAX>;
var<workgroup> query_terms: array<vec2<f32>, PAIRS_MAX>;
var<workgroup> slots: array<u32, 16>;
var<workgroup> quarters: array<f32, 64>;
var<workgroup> scores: array<f32, 16>;

fn score(start: u32, position: u32, quarter: u32) -> f32 {
    var sum = 0.0;
    for (var i = quarter; i < p.head_dim / 2u; i += 4u) {
        let k = key_pair(start, i);
        sum = fma(query[i].y, k.y, fma(query[i].x, k.x, sum));
        if BIASED {
            let t = turn(position, i);
            sum = fma(query_terms[i].y, t.y, fma(query_terms[i].x, t.x, sum));
        }
    }
    return sum;
}

@compute @workgroup_size(64)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
) {
    let index = flat(group, groups, 0u, 1u);
    if index >= p.rows * p.heads { return; }
    let row = p.row_first + index / p.heads;
    let head = index % p.heads;
    let half = p.head_dim / 2u;
    let start = (row * p.heads + head) * half;
    let kv = head / p.group;
    let m = map[row];
    let seen = first_seen(m.w);
    for (var i = local; i < half; i += 64u) {
        query[i] = q[start + i];
        if BIASED { query_terms[i] = term(start + i); }
    }
    var near = vec2(0.0);
    var far = vec2(0.0);
    var top = LOWEST;
    var total = 0.0;
    for (var t = seen / 16u * 16u; t < m.w; t += 16u) {
        if local < 16u { slots[local] = slot_of(m, t + local); }
        workgroupBarrier();
        let position = min(t + local / 4u, m.w - 1u);
        quarters[local] = score(key_at(slots[local / 4u], kv), position, local % 4u);
        workgroupBarrier();
        if local < 16u {
            let at = local * 4u;
            let s = (quarters[at] + quarters[at + 1u]) + (quarters[at + 2u] + quarters[at + 3u]);
            scores[local] = select(LOWEST, s * p.scale, t + local >= seen && t + local < m.w);
        }
        workgroupBarrier();
        var new_top = top;
        for (var i = 0u; i < 16u; i++) { new_top = max(new_top, scores[i]); }
        let keep = select(exp(top - new_top), 0.0, top == LOWEST);
        near *= keep;
        far *= keep;
        total *= keep;
        top = new_top;
        for (var i = 0u; i < 16u; i++) {
            if scores[i] == LOWEST { continue; }
            let w = exp(scores[i] - top);
            total += w;
            let at = value_at(slots[i], kv);
            if local < half { near = fma(value_pair(at, local), vec2(w), near); }
            if local + 64u < half { far = fma(value_pair(at, local + 64u), vec2(w), far); }
        }
        workgroupBarrier();
    }
    if local < half { out[start + local] = near / total; }
    if local + 64u < half { out[start + local + 64u] = far / total; }
}
