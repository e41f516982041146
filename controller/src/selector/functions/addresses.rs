//! Addresses: IP, CIDR, URL. Kubernetes takes no zones and no IPv4 addresses mapped into IPv6.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use super::super::eval::Answer;
use super::super::meter::Meter;
use super::super::value::{Cause, Map, Value};

/// An address and how many of its bits name the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Cidr {
    address: IpAddr,
    length: u8,
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl Cidr {
    fn parse(text: &str) -> Result<Self, Cause> {
        let bad = || Cause::other(format!("network address {text:?} parse error"));
        let (address, length) = text.split_once('/').ok_or_else(bad)?;
        let address = ip(address)?;
        let plain = length == "0" || (!length.starts_with('0') && length.bytes().all(|b| b.is_ascii_digit()));
        let length = length.parse::<u8>().ok().filter(|l| plain && *l <= bits(address)).ok_or_else(bad)?;
        Ok(Self { address, length })
    }

    fn network(address: IpAddr, length: u8) -> IpAddr {
        let kept = |bits: u8| bits - length.min(bits);
        match address {
            IpAddr::V4(a) => {
                (a.to_bits() & u32::MAX.checked_shl(kept(32).into()).unwrap_or(0)).to_be_bytes().into()
            }
            IpAddr::V6(a) => {
                (a.to_bits() & u128::MAX.checked_shl(kept(128).into()).unwrap_or(0)).to_be_bytes().into()
            }
        }
    }

    fn contains(self, address: IpAddr) -> bool {
        address.is_ipv4() == self.address.is_ipv4()
            && Self::network(address, self.length) == Self::network(self.address, self.length)
    }
}

fn bits(address: IpAddr) -> u8 {
    if address.is_ipv4() { 32 } else { 128 }
}

fn ip(text: &str) -> Result<IpAddr, Cause> {
    let parsed = text.parse::<IpAddr>().ok();
    let mapped = |a: &IpAddr| matches!(a, IpAddr::V6(a) if a.to_ipv4_mapped().is_some());
    parsed.filter(|a| !mapped(a)).ok_or_else(|| Cause::other(format!("IP Address {text:?} parse error")))
}

/// A URL that names a scheme or begins with a slash.
#[derive(Debug, Default, PartialEq, Eq)]
pub(in super::super) struct Url {
    scheme: String,
    /// What follows the scheme where no slash does.
    opaque: String,
    user: Option<String>,
    host: String,
    path: String,
    query: String,
    fragment: String,
}

const ESCAPED: &[u8] = b" \"<>\\^`{|}#?";

impl Url {
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text.is_empty() || text.bytes().any(|b| b < 0x20 || b == 0x7f) {
            return None;
        }
        let named = text.split_once(':').filter(|(scheme, _)| {
            scheme.starts_with(|c: char| c.is_ascii_alphabetic())
                && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
        });
        let (scheme, rest) = named.map_or((String::new(), text), |(s, rest)| (s.to_ascii_lowercase(), rest));
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        if !rest.starts_with('/') {
            let (opaque, query) = (rest.to_owned(), query.to_owned());
            return (!scheme.is_empty()).then(|| Self { scheme, opaque, query, ..Self::default() });
        }
        let (authority, path) = match rest.strip_prefix("//") {
            Some(rest) if !scheme.is_empty() || !rest.starts_with('/') => {
                rest.find('/').map_or((rest, ""), |at| rest.split_at(at))
            }
            _ => ("", rest),
        };
        let (user, host) =
            authority.rsplit_once('@').map_or((None, authority), |(u, h)| (Some(u.to_owned()), h));
        let port = host.rsplit_once(':').filter(|_| !host.ends_with(']')).map_or("", |(_, port)| port);
        let legal = |c: char| c.is_alphanumeric() || "-._~!$&'()*+,;=:[]%\"<>".contains(c);
        if !host.chars().all(legal) || !port.bytes().all(|b| b.is_ascii_digit()) {
            return None;
        }
        let path = escape(&unescape(path)?, path);
        let (host, query) = (host.to_owned(), query.to_owned());
        Some(Self { scheme, user, host, path, query, ..Self::default() })
    }

    /// What is a URL as a whole, with its fragment apart.
    fn with_fragment(text: &str) -> Option<Self> {
        let url = Self::parse(text)?;
        match text.split_once('#') {
            None => Some(url),
            Some((front, fragment)) => Some(Self { fragment: unescape(fragment)?, ..Self::parse(front)? }),
        }
    }

    fn port(&self) -> Option<(&str, &str)> {
        self.host.rsplit_once(':').filter(|_| !self.host.ends_with(']'))
    }

    fn hostname(&self) -> &str {
        let host = self.port().map_or(self.host.as_str(), |(host, _)| host);
        host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host)
    }

    fn queries(&self, meter: &mut Meter) -> Answer {
        let mut lists: Vec<(String, Vec<Value>)> = Vec::new();
        for pair in self.query.split('&').filter(|p| !p.is_empty() && !p.contains(';')) {
            meter.spend(lists.len() as u64 + 1)?;
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let text = |s: &str| unescape(&s.replace('+', " "));
            let Some((key, value)) = text(key).zip(text(value)) else { continue };
            match lists.iter_mut().find(|(k, _)| *k == key) {
                Some((_, values)) => values.push(value.into()),
                None => lists.push((key, vec![value.into()])),
            }
        }
        let mut map = Map::default();
        for (key, values) in lists {
            map.insert(key.into(), values.into());
        }
        Ok(map.into())
    }
}

fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'%' {
            bytes.push(*first);
            continue;
        }
        let digits = std::str::from_utf8(tail.get(..2)?).ok()?;
        bytes.push(u8::from_str_radix(digits, 16).ok()?);
        rest = &tail[2..];
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// A path as it was written if that is a valid form, else with what needs it escaped.
fn escape(path: &str, written: &str) -> String {
    if written.bytes().all(|b| b.is_ascii() && !ESCAPED.contains(&b)) {
        return written.to_owned();
    }
    let one = |b: u8| match b.is_ascii() && !ESCAPED.contains(&b) && b != b'%' {
        true => char::from(b).to_string(),
        false => format!("%{b:02X}"),
    };
    path.bytes().map(one).collect()
}

pub(super) fn call(function: &str, args: &[Value], meter: &mut Meter) -> Option<Answer> {
    use Value::{Bool, Int};
    if let Some(Err(cause)) = args.first().map(|a| meter.spend(a.size())) {
        return Some(Err(cause));
    }
    Some(match (function, args) {
        ("url", [Value::String(s)]) => Url::with_fragment(s)
            .map(|url| Value::Url(Arc::new(url)))
            .ok_or_else(|| Cause::other(format!("URL parse error: {s:?} is no URL with a scheme or a path"))),
        ("isURL", [Value::String(s)]) => Ok(Bool(Url::parse(s).is_some())),
        ("getScheme", [Value::Url(url)]) => Ok(url.scheme.as_str().into()),
        ("getHost", [Value::Url(url)]) => Ok(url.host.as_str().into()),
        ("getHostname", [Value::Url(url)]) => Ok(url.hostname().into()),
        ("getPort", [Value::Url(url)]) => Ok(url.port().map_or("", |(_, port)| port).into()),
        ("getEscapedPath", [Value::Url(url)]) => Ok(url.path.as_str().into()),
        ("getQuery", [Value::Url(url)]) => url.queries(meter),
        ("ip", [Value::String(s)]) => ip(s).map(Value::Ip),
        ("ip", [Value::Cidr(cidr)]) => Ok(Value::Ip(cidr.address)),
        ("isIP", [Value::String(s)]) => Ok(Bool(ip(s).is_ok())),
        ("ip.isCanonical", [Value::String(s)]) => ip(s).map(|a| Bool(a.to_string() == **s)),
        ("family", [Value::Ip(a)]) => Ok(Int(if a.is_ipv4() { 4 } else { 6 })),
        ("isUnspecified", [Value::Ip(a)]) => Ok(Bool(a.is_unspecified())),
        ("isLoopback", [Value::Ip(a)]) => Ok(Bool(a.is_loopback())),
        ("isLinkLocalMulticast", [Value::Ip(a)]) => Ok(Bool(link_local(*a, true))),
        ("isLinkLocalUnicast", [Value::Ip(a)]) => Ok(Bool(link_local(*a, false))),
        ("isGlobalUnicast", [Value::Ip(a)]) => Ok(Bool(
            !a.is_unspecified()
                && !a.is_loopback()
                && !a.is_multicast()
                && !link_local(*a, false)
                && *a != IpAddr::V4(Ipv4Addr::BROADCAST),
        )),
        ("cidr", [Value::String(s)]) => Cidr::parse(s).map(Value::Cidr),
        ("isCIDR", [Value::String(s)]) => Ok(Bool(Cidr::parse(s).is_ok())),
        ("containsIP", [Value::Cidr(cidr), Value::Ip(a)]) => Ok(Bool(cidr.contains(*a))),
        // Kubernetes loses the cause on this way.
        ("containsIP", [Value::Cidr(cidr), Value::String(s)]) => ip(s)
            .map(|a| Bool(cidr.contains(a)))
            .map_err(|cause| Cause::NoSuchOverload(format!("containsIP(): {cause}"))),
        ("containsCIDR", [Value::Cidr(a), Value::Cidr(b)]) => {
            Ok(Bool(a.length <= b.length && a.contains(b.address)))
        }
        ("containsCIDR", [Value::Cidr(a), Value::String(s)]) => {
            Cidr::parse(s).map(|b| Bool(a.length <= b.length && a.contains(b.address)))
        }
        ("prefixLength", [Value::Cidr(cidr)]) => Ok(Int(cidr.length.into())),
        ("masked", [Value::Cidr(cidr)]) => {
            let address = Cidr::network(cidr.address, cidr.length);
            Ok(Value::Cidr(Cidr { address, length: cidr.length }))
        }
        _ => return None,
    })
}

fn link_local(address: IpAddr, multicast: bool) -> bool {
    match (address, multicast) {
        (IpAddr::V4(a), false) => a.is_link_local(),
        (IpAddr::V4(a), true) => a.octets()[..3] == [224, 0, 0],
        (IpAddr::V6(a), false) => a.is_unicast_link_local(),
        (IpAddr::V6(a), true) => a.segments()[0] & 0xff0f == 0xff02,
    }
}
