// Linear index of an invocation in a grid folded to two dimensions.
fn flat(group: vec3<u32>, groups: vec3<u32>, local: u32, width: u32) -> u32 {
    return (group.y * groups.x + group.x) * width + local;
}
