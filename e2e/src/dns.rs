//! A DNS question and its answers, over UDP: enough to see, from inside a pod, what the cluster's DNS says.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use anyhow::Context as _;

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Addresses.
    A,
    /// Hosts and ports of a service.
    Srv,
}

/// Asks, and gives the answers as text, sorted: an address each, or `port host`.
///
/// # Errors
/// When the server doesn't answer, or says that there is no such name.
pub fn ask(server: Ipv4Addr, kind: Kind, name: &str) -> anyhow::Result<Vec<String>> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_read_timeout(Some(Duration::from_secs(3)))?;
    socket.send_to(&question(kind, name)?, (server, 53))?;
    let mut buffer = [0; 8192];
    let (size, _) = socket.recv_from(&mut buffer).with_context(|| format!("{server} does not answer"))?;
    let mut answers = read(&buffer[..size], kind)?;
    answers.sort();
    Ok(answers)
}

fn question(kind: Kind, name: &str) -> anyhow::Result<Vec<u8>> {
    // One question, recursion wanted, and (EDNS) room for 8192 bytes of answer.
    let mut packet = vec![0x70, 0x61, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
    for label in name.trim_end_matches('.').split('.') {
        anyhow::ensure!((1..64).contains(&label.len()), "{name} is not a name");
        packet.push(u8::try_from(label.len())?);
        packet.extend(label.as_bytes());
    }
    packet.extend([0, 0, number(kind), 0, 1]);
    packet.extend([0, 0, 41, 0x20, 0, 0, 0, 0, 0, 0, 0]);
    Ok(packet)
}

fn number(kind: Kind) -> u8 {
    match kind {
        Kind::A => 1,
        Kind::Srv => 33,
    }
}

fn read(packet: &[u8], kind: Kind) -> anyhow::Result<Vec<String>> {
    let short = "the answer is cut off";
    let byte = |at: usize| packet.get(at).copied().context(short);
    let half = |at: usize| Ok::<_, anyhow::Error>(u16::from_be_bytes([byte(at)?, byte(at + 1)?]));
    match byte(3)? & 15 {
        0 => {}
        3 => anyhow::bail!("no such name"),
        code => anyhow::bail!("the server says: error {code}"),
    }
    let mut at = skip_name(packet, 12)? + 4;
    let mut answers = Vec::new();
    for _ in 0..half(6)? {
        at = skip_name(packet, at)?;
        let (found, size) = (half(at)?, usize::from(half(at + 8)?));
        let data = at + 10;
        if found == u16::from(number(kind)) {
            answers.push(match kind {
                Kind::A => Ipv4Addr::new(byte(data)?, byte(data + 1)?, byte(data + 2)?, byte(data + 3)?).to_string(),
                Kind::Srv => format!("{} {}", half(data + 4)?, name_at(packet, data + 6)?),
            });
        }
        at = data + size;
    }
    Ok(answers)
}

fn skip_name(packet: &[u8], mut at: usize) -> anyhow::Result<usize> {
    loop {
        match *packet.get(at).context("a name is cut off")? {
            0 => return Ok(at + 1),
            length if length >= 0xc0 => return Ok(at + 2),
            length => at += 1 + usize::from(length),
        }
    }
}

fn name_at(packet: &[u8], mut at: usize) -> anyhow::Result<String> {
    let mut labels = Vec::new();
    for _ in 0..128 {
        let length = *packet.get(at).context("a name is cut off")?;
        if length == 0 {
            return Ok(labels.join("."));
        }
        if length >= 0xc0 {
            let low = *packet.get(at + 1).context("a name is cut off")?;
            at = usize::from(length & 0x3f) << 8 | usize::from(low);
            continue;
        }
        let label = packet.get(at + 1..at + 1 + usize::from(length)).context("a name is cut off")?;
        labels.push(String::from_utf8_lossy(label).into_owned());
        at += 1 + usize::from(length);
    }
    anyhow::bail!("a name points at itself")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_an_srv_answer_with_a_pointer() {
        let mut packet = question(Kind::Srv, "a.b").unwrap();
        packet[7] = 1; // one answer
        let end = packet.len() - 11; // put the answer before the EDNS record
        let mut answer = vec![0xc0, 12, 0, 33, 0, 1, 0, 0, 0, 5, 0, 11, 0, 0, 0, 100];
        answer.extend(10901u16.to_be_bytes());
        answer.extend([2, b'p', b'0', 0xc0, 12]);
        packet.splice(end..end, answer);
        assert_eq!(read(&packet, Kind::Srv).unwrap(), ["10901 p0.a.b"]);
    }

    #[test]
    fn a_cut_answer_is_an_error() {
        let packet = question(Kind::A, "a.b").unwrap();
        for size in 0..12 {
            assert!(read(&packet[..size], Kind::A).is_err());
        }
    }
}
