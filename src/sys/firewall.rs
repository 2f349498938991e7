//! The chains of nftables through which packets come and go (nfnetlink, NFT_MSG_GETCHAIN). What their rules say is not looked at.

use std::io;

use nix::sys::socket::SockProtocol;

use super::netlink::{self, Extent, attributes};

/// NFNL_SUBSYS_NFTABLES and NFT_MSG_GETCHAIN.
const GET_CHAIN: u16 = 10 << 8 | 4;
/// `struct nfgenmsg`, which begins with the family.
const HEADER_SIZE: usize = 4;
const CHAIN_TABLE: u16 = 1;
const CHAIN_NAME: u16 = 3;
const CHAIN_HOOK: u16 = 4;
const CHAIN_TYPE: u16 = 7;
const HOOK_NUMBER: u16 = 1;

/// A chain that the kernel asks by itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BaseChain {
    /// The NFPROTO number: 1 inet, 2 ip, 5 netdev, 10 ip6.
    pub family: u8,
    /// Its table.
    pub table: String,
    /// Its name.
    pub name: String,
    /// What it does: filter, nat or route.
    pub kind: String,
    /// The number of its hook, of the family's.
    pub hook: u32,
}

/// All base chains of this network namespace.
///
/// # Errors
/// What the kernel says: EPERM without CAP_NET_ADMIN.
pub fn chains() -> io::Result<Vec<BaseChain>> {
    let answer = netlink::ask(SockProtocol::NetlinkNetFilter, GET_CHAIN, Extent::All, &[0; HEADER_SIZE])?;
    Ok(answer.iter().filter_map(|message| parse(message)).collect())
}

fn parse(message: &[u8]) -> Option<BaseChain> {
    let family = *message.first()?;
    let (mut table, mut name, mut kind, mut hook) = (None, None, None, None);
    for (attribute, value) in attributes(message.get(HEADER_SIZE..)?) {
        match attribute {
            CHAIN_TABLE => table = text(value),
            CHAIN_NAME => name = text(value),
            CHAIN_TYPE => kind = text(value),
            CHAIN_HOOK => {
                let number = attributes(value).find(|(attribute, _)| *attribute == HOOK_NUMBER)?.1;
                hook = number.first_chunk().map(|&number| u32::from_be_bytes(number));
            }
            _ => {}
        }
    }
    Some(BaseChain { family, table: table?, name: name?, kind: kind?, hook: hook? })
}

/// A name that ends with a zero.
fn text(value: &[u8]) -> Option<String> {
    let name = value.split(|&byte| byte == 0).next()?;
    String::from_utf8(name.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    use super::netlink::attribute;
    use super::*;

    #[test]
    fn base_chains_are_told_from_others() {
        let hook = attribute(CHAIN_HOOK, &attribute(HOOK_NUMBER, &1_u32.to_be_bytes()));
        let names = [attribute(CHAIN_TABLE, b"filter\0"), attribute(CHAIN_NAME, b"input\0")].concat();
        let kind = attribute(CHAIN_TYPE, b"filter\0");
        let base = [&[1, 0, 0, 0][..], &names, &hook, &kind].concat();
        let expected =
            BaseChain { family: 1, table: "filter".into(), name: "input".into(), kind: "filter".into(), hook: 1 };
        assert_eq!(parse(&base), Some(expected));
        assert_eq!(parse(&[&[1, 0, 0, 0][..], &names].concat()), None);
        // The last byte pads.
        (0..base.len() - 1).for_each(|size| assert_eq!(parse(&base[..size]), None));
    }
}
