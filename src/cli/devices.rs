//! `forebay devices`.

use super::args::DevicesArgs;
use super::exit::DONE;
use super::{memory, shell};
use crate::backend::cpu::CpuDevice;
use crate::backend::gpu;
use crate::backend::{Device, DeviceKind};
use bytesize::ByteSize;
use comfy_table::{Table, presets};
use serde_json::{Value, json};

/// One row: a device that `--device INDEX` takes.
struct Row {
    index: usize,
    name: String,
    kind: DeviceKind,
    api: String,
    driver: String,
    buffer_bytes_max: u64,
    usable: bool,
    auto: bool,
    details: Value,
}

/// Lists devices: adapters, best first, then the cpu.
pub(super) fn devices(args: &DevicesArgs) -> anyhow::Result<u8> {
    let rows = rows()?;
    if args.json {
        let list: Vec<Value> = rows.iter().map(json_row).collect();
        shell::print(format!("{:#}\n", Value::from(list)).as_bytes())?;
        return Ok(DONE);
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table.set_header(["", "index", "name", "kind", "api", "driver", "largest buffer"]);
    for row in &rows {
        table.add_row([
            if row.auto { "*" } else { "" }.to_string(),
            row.index.to_string(),
            row.name.clone(),
            format!("{}{}", row.kind, if row.usable { "" } else { " (unusable)" }),
            row.api.clone(),
            row.driver.clone(),
            match row.kind {
                DeviceKind::Cpu => "RAM".to_string(),
                _ => ByteSize(row.buffer_bytes_max).display().iec().to_string(),
            },
        ]);
    }
    shell::print(format!("{table}\n* what --device auto takes\n").as_bytes())?;
    Ok(DONE)
}

fn rows() -> anyhow::Result<Vec<Row>> {
    let mut rows: Vec<Row> = gpu::adapters()
        .into_iter()
        .map(|adapter| Row {
            index: adapter.index,
            name: adapter.name,
            kind: adapter.kind,
            api: adapter.backend,
            driver: adapter.driver,
            buffer_bytes_max: adapter.buffer_bytes_max,
            usable: adapter.usable,
            auto: false,
            details: json!({
                "workgroup_bytes": adapter.workgroup_bytes,
                "subgroup_min": adapter.subgroup.0,
                "subgroup_max": adapter.subgroup.1,
                "f16": adapter.f16,
            }),
        })
        .collect();
    let cpu = CpuDevice::new(None)?;
    let info = cpu.info();
    rows.push(Row {
        index: rows.len(),
        name: info.name.clone(),
        kind: info.kind,
        api: "native".to_string(),
        driver: info.driver.clone(),
        buffer_bytes_max: info.buffer_bytes_max,
        usable: true,
        auto: false,
        details: json!({"available_bytes": memory::available_bytes()}),
    });
    let best = rows.iter().position(|row| row.usable && row.kind != DeviceKind::SoftwareGpu);
    if let Some(best) = best {
        rows[best].auto = true;
    }
    Ok(rows)
}

fn json_row(row: &Row) -> Value {
    json!({
        "index": row.index,
        "name": row.name,
        "kind": row.kind.to_string(),
        "api": row.api,
        "driver": row.driver,
        "buffer_bytes_max": row.buffer_bytes_max,
        "usable": row.usable,
        "auto": row.auto,
        "details": row.details,
    })
}
