//! Files in the format of MaxMind DB, as small as a test needs them:
//! <https://maxmind.github.io/MaxMind-DB/>.

use std::net::IpAddr;

/// A value of the format, as far as it is needed here.
pub enum Value {
    Text(&'static str),
    /// Unsigned, of 2, 4 or 8 bytes.
    Number(usize, u64),
    List(Vec<Value>),
    Map(Vec<(&'static str, Value)>),
}

impl Value {
    /// After "MaxMind DB File Format Specification", section "Data Field Format".
    fn write(&self, out: &mut Vec<u8>) {
        let control = |out: &mut Vec<u8>, kind: u8, size: usize| {
            // Sizes from 29 on are said in more bytes.
            let (low, more) = if size < 29 { (size as u8, None) } else { (29, Some(size - 29)) };
            if kind > 7 {
                out.extend([low, kind - 7]);
            } else {
                out.push(kind << 5 | low);
            }
            out.extend(more.map(|more| u8::try_from(more).unwrap()));
        };
        match self {
            Self::Text(text) => {
                control(out, 2, text.len());
                out.extend(text.as_bytes());
            }
            // Leading zeros are left out.
            Self::Number(size, number) => {
                let bytes = number.to_be_bytes();
                let from = bytes.iter().position(|b| *b != 0).unwrap_or(bytes.len());
                let kind = [(2, 5), (4, 6), (8, 9)].iter().find(|(s, _)| s == size);
                control(out, kind.unwrap().1, bytes.len() - from);
                out.extend(&bytes[from..]);
            }
            Self::List(values) => {
                control(out, 11, values.len());
                values.iter().for_each(|value| value.write(out));
            }
            Self::Map(pairs) => {
                control(out, 7, pairs.len());
                for (key, value) in pairs {
                    Self::Text(key).write(out);
                    value.write(out);
                }
            }
        }
    }
}

/// What an entry says of where it is.
pub fn of(country: Option<&'static str>, continent: Option<&'static str>) -> Value {
    let country = country.map(|code| {
        let name = Value::Map(vec![("en", Value::Text("A country with quite a long name"))]);
        ("country", Value::Map(vec![("names", name), ("iso_code", Value::Text(code))]))
    });
    let continent =
        continent.map(|code| ("continent", Value::Map(vec![("code", Value::Text(code))])));
    Value::Map(country.into_iter().chain(continent).collect())
}

/// A file that says this of these networks. IPv4 is in it as `::/96`.
pub fn file(entries: &[(&str, Value)]) -> Vec<u8> {
    #[derive(Clone, Copy)]
    enum To {
        Nothing,
        Node(usize),
        Data(usize),
    }
    let mut nodes = vec![[To::Nothing; 2]];
    let mut data = Vec::new();
    for (network, value) in entries {
        let (ip, prefix) = network.split_once('/').unwrap();
        let prefix: u32 = prefix.parse().unwrap();
        let (bits, length) = match ip.parse().unwrap() {
            IpAddr::V4(ip) => (u128::from(ip.to_bits()), 96 + prefix),
            IpAddr::V6(ip) => (ip.to_bits(), prefix),
        };
        let mut node = 0;
        for depth in 0..length {
            let side = usize::from(bits >> (127 - depth) & 1 == 1);
            if depth + 1 == length {
                nodes[node][side] = To::Data(data.len());
            } else {
                node = match nodes[node][side] {
                    To::Node(next) => next,
                    _ => {
                        nodes.push([To::Nothing; 2]);
                        let next = nodes.len() - 1;
                        nodes[node][side] = To::Node(next);
                        next
                    }
                };
            }
        }
        value.write(&mut data);
    }
    let count = nodes.len();
    let mut out = Vec::new();
    for to in nodes.into_iter().flatten() {
        let record = match to {
            To::Nothing => count,
            To::Node(node) => node,
            To::Data(at) => count + 16 + at,
        };
        out.extend(&(record as u32).to_be_bytes()[1..]);
    }
    out.extend([0; 16]);
    out.extend(data);
    out.extend(b"\xab\xcd\xefMaxMind.com");
    Value::Map(vec![
        ("binary_format_major_version", Value::Number(2, 2)),
        ("binary_format_minor_version", Value::Number(2, 0)),
        ("build_epoch", Value::Number(8, 1_700_000_000)),
        ("database_type", Value::Text("Test-Country")),
        ("description", Value::Map(vec![("en", Value::Text("of a test"))])),
        ("ip_version", Value::Number(2, 6)),
        ("languages", Value::List(vec![Value::Text("en")])),
        ("node_count", Value::Number(4, count as u64)),
        ("record_size", Value::Number(2, 24)),
    ])
    .write(&mut out);
    out
}
