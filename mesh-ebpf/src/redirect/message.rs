//! Chains as messages of netlink. Pure.
//!
//! The layout is that of the kernel's `include/uapi/linux/netfilter/nf_tables.h` and `nfnetlink.h`, whose
//! names stand beside the numbers. Headers are in the order of the machine, what an attribute holds in that of
//! the network, unless it is compared with what the kernel has in memory.
//!
//! A rule is a list of expressions: one loads into register 1, the next compares it, and the last gives the
//! verdict. The expressions are those that `nft` makes of the same text.

use std::net::IpAddr;

use super::options::Network;
use super::plan::{Chain, Hook, LOOPBACK, Match, PRIORITY, Rule, Verdict};

/// A message, and what it does in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) what: String,
    kind: u16,
    flags: u16,
    body: Vec<u8>,
}

/// A transaction: it is taken whole or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Batch {
    pub(super) bytes: Vec<u8>,
    /// What each message does, by its sequence number: the first is [`BEGIN`] itself.
    pub(super) what: Vec<String>,
}

/// The sequence number of the message that begins a batch, which is answered where no batch is taken.
pub(super) const BEGIN: u32 = 0;

// The kinds of messages: NFNL_SUBSYS_NFTABLES, NFT_MSG_*, NFNL_MSG_BATCH_*.
const SUBSYSTEM: u16 = 10;
const NEW_TABLE: u16 = SUBSYSTEM << 8;
const GET_TABLE: u16 = SUBSYSTEM << 8 | 1;
const DELETE_TABLE: u16 = SUBSYSTEM << 8 | 2;
const NEW_CHAIN: u16 = SUBSYSTEM << 8 | 3;
pub(super) const NEW_RULE: u16 = SUBSYSTEM << 8 | 6;
const GET_RULE: u16 = SUBSYSTEM << 8 | 7;
const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;

// NLM_F_*.
const REQUEST: u16 = 0x1;
const ACKNOWLEDGE: u16 = 0x4;
const DUMP: u16 = 0x300;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;

/// NFPROTO_INET: IPv4 and IPv6.
const INET: u8 = 1;
/// NLA_F_NESTED.
const NESTED: u16 = 0x8000;
/// NFT_REG_1, of 16 bytes. Register 0 is that of the verdict.
const REGISTER: u32 = 1;

// === what is sent ===

/// Replaces a table: what is not there is made first, so that it can be deleted.
pub(super) fn replace(table: &str, chains: &[Chain]) -> Batch {
    let mut messages = cleared(table);
    messages.push(new_table(table));
    messages.extend(chains.iter().map(|chain| new_chain(table, chain)));
    for chain in chains {
        messages.extend(chain.rules.iter().map(|rule| new_rule(table, chain, rule)));
    }
    batch(messages)
}

/// Removes a table, whether it is there or not.
pub(super) fn remove(table: &str) -> Batch {
    batch(cleared(table))
}

/// Asks whether there is a table.
pub(super) fn get_table(table: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut body = header(INET, 0);
    text(&mut body, 1, table); // NFTA_TABLE_NAME
    message(&mut out, GET_TABLE, REQUEST, BEGIN, &body);
    out
}

/// Asks for the rules of a table. A kernel that knows no such choice sends those of all.
pub(super) fn get_rules(table: &str) -> Vec<u8> {
    let mut out = Vec::new();
    let mut body = header(INET, 0);
    text(&mut body, 1, table); // NFTA_RULE_TABLE
    message(&mut out, GET_RULE, REQUEST | DUMP, BEGIN, &body);
    out
}

fn batch(mut messages: Vec<Message>) -> Batch {
    // One answer says that all were taken; what is refused is answered in any case.
    if let Some(last) = messages.last_mut() {
        last.flags |= ACKNOWLEDGE;
    }
    let mut bytes = Vec::new();
    let mut what = vec!["a batch of nf_tables".to_owned()];
    message(
        &mut bytes,
        BATCH_BEGIN,
        REQUEST,
        BEGIN,
        &header(0, SUBSYSTEM),
    );
    let mut sequence = BEGIN;
    for next in messages {
        sequence += 1;
        let flags = REQUEST | next.flags;
        message(&mut bytes, next.kind, flags, sequence, &next.body);
        what.push(next.what);
    }
    message(
        &mut bytes,
        BATCH_END,
        REQUEST,
        sequence + 1,
        &header(0, SUBSYSTEM),
    );
    Batch { bytes, what }
}

fn cleared(table: &str) -> Vec<Message> {
    let mut body = header(INET, 0);
    text(&mut body, 1, table); // NFTA_TABLE_NAME
    let delete = Message {
        what: format!("to delete the table inet {table}"),
        kind: DELETE_TABLE,
        flags: 0,
        body,
    };
    vec![new_table(table), delete]
}

fn new_table(table: &str) -> Message {
    let mut body = header(INET, 0);
    text(&mut body, 1, table); // NFTA_TABLE_NAME
    number(&mut body, 2, 0); // NFTA_TABLE_FLAGS
    Message {
        what: format!("the table inet {table}"),
        kind: NEW_TABLE,
        flags: CREATE,
        body,
    }
}

fn new_chain(table: &str, chain: &Chain) -> Message {
    let mut body = header(INET, 0);
    text(&mut body, 1, table); // NFTA_CHAIN_TABLE
    text(&mut body, 3, chain.name); // NFTA_CHAIN_NAME
    if let Some(hook) = chain.hook {
        // NF_INET_PRE_ROUTING, NF_INET_LOCAL_OUT
        let place = match hook {
            Hook::Prerouting => 0,
            Hook::Output => 3,
        };
        text(&mut body, 7, "nat"); // NFTA_CHAIN_TYPE
        number(&mut body, 5, 1); // NFTA_CHAIN_POLICY: NF_ACCEPT
        nest(&mut body, 4, |hook| {
            number(hook, 1, place); // NFTA_HOOK_HOOKNUM
            number(hook, 2, PRIORITY.cast_unsigned()); // NFTA_HOOK_PRIORITY
        });
    }
    Message {
        what: format!("the chain {}", chain.name),
        kind: NEW_CHAIN,
        flags: CREATE,
        body,
    }
}

fn new_rule(table: &str, chain: &Chain, rule: &Rule) -> Message {
    let mut body = header(INET, 0);
    text(&mut body, 1, table); // NFTA_RULE_TABLE
    text(&mut body, 2, chain.name); // NFTA_RULE_CHAIN
    nest(&mut body, 4, |list| {
        // NFTA_RULE_EXPRESSIONS
        for matched in &rule.matches {
            condition(list, matched);
        }
        verdict(list, rule.verdict);
    });
    Message {
        what: format!("the rule `{rule}` of the chain {}", chain.name),
        kind: NEW_RULE,
        flags: CREATE | APPEND,
        body,
    }
}

// === expressions ===

// enum nft_meta_keys
const META_OUT_NAME: u32 = 7;
const META_USER: u32 = 10;
const META_FAMILY: u32 = 15;
const META_PROTOCOL: u32 = 16;

// enum nft_payload_bases
const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;

// enum nft_cmp_ops
const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;

fn condition(list: &mut Vec<u8>, matched: &Match) {
    match matched {
        Match::Destination(network) => destination(list, *network),
        Match::NotTcp => protocol(list, NOT_EQUAL),
        Match::OutLoopback(leaves) => {
            // The name as the kernel has it: IFNAMSIZ bytes.
            let mut name = [0; 16];
            name[..LOOPBACK.len()].copy_from_slice(LOOPBACK.as_bytes());
            meta(list, META_OUT_NAME);
            compare(list, if *leaves { EQUAL } else { NOT_EQUAL }, &name);
        }
        Match::Port(port) => {
            protocol(list, EQUAL);
            payload(list, TRANSPORT_HEADER, 2, 2);
            compare(list, EQUAL, &port.to_be_bytes());
        }
        Match::Tcp => protocol(list, EQUAL),
        Match::User(user) => {
            meta(list, META_USER);
            compare(list, EQUAL, &user.to_ne_bytes());
        }
    }
}

fn protocol(list: &mut Vec<u8>, operator: u32) {
    const TCP: u8 = 6;
    meta(list, META_PROTOCOL);
    compare(list, operator, &[TCP]);
}

/// The destination begins with the prefix: whole bytes are compared as they are, others under a mask.
fn destination(list: &mut Vec<u8>, network: Network) {
    // The family (NFPROTO_*), and where an address stands in the header.
    let (family, offset, octets) = match network.address() {
        IpAddr::V4(v4) => (2, 16, v4.octets().to_vec()),
        IpAddr::V6(v6) => (10, 24, v6.octets().to_vec()),
    };
    meta(list, META_FAMILY);
    compare(list, EQUAL, &[family]);
    let whole = usize::from(network.prefix() / 8);
    if network.prefix() == 0 {
        return;
    }
    if network.prefix().is_multiple_of(8) {
        payload(list, NETWORK_HEADER, offset, size(whole));
        compare(list, EQUAL, &octets[..whole]);
        return;
    }
    payload(list, NETWORK_HEADER, offset, size(octets.len()));
    expression(list, "bitwise", |data| {
        number(data, 1, REGISTER); // NFTA_BITWISE_SREG
        number(data, 2, REGISTER); // NFTA_BITWISE_DREG
        number(data, 3, size(octets.len())); // NFTA_BITWISE_LEN
        nest(data, 4, |mask| attribute(mask, 1, &network.mask())); // NFTA_BITWISE_MASK
        nest(data, 5, |xor| attribute(xor, 1, &vec![0; octets.len()])); // NFTA_BITWISE_XOR
    });
    compare(list, EQUAL, &octets);
}

fn meta(list: &mut Vec<u8>, key: u32) {
    expression(list, "meta", |data| {
        number(data, 2, key); // NFTA_META_KEY
        number(data, 1, REGISTER); // NFTA_META_DREG
    });
}

fn payload(list: &mut Vec<u8>, base: u32, offset: u32, length: u32) {
    expression(list, "payload", |data| {
        number(data, 1, REGISTER); // NFTA_PAYLOAD_DREG
        number(data, 2, base); // NFTA_PAYLOAD_BASE
        number(data, 3, offset); // NFTA_PAYLOAD_OFFSET
        number(data, 4, length); // NFTA_PAYLOAD_LEN
    });
}

fn compare(list: &mut Vec<u8>, operator: u32, with: &[u8]) {
    expression(list, "cmp", |data| {
        number(data, 1, REGISTER); // NFTA_CMP_SREG
        number(data, 2, operator); // NFTA_CMP_OP
        nest(data, 3, |value| attribute(value, 1, with)); // NFTA_CMP_DATA, NFTA_DATA_VALUE
    });
}

fn verdict(list: &mut Vec<u8>, verdict: Verdict) {
    // enum nft_verdicts
    const RETURN: i32 = -5;
    const GOTO: i32 = -4;
    let (code, chain) = match verdict {
        Verdict::Goto(chain) => (GOTO, Some(chain)),
        Verdict::Redirect(port) => return redirect(list, port),
        Verdict::Return => (RETURN, None),
    };
    expression(list, "immediate", |data| {
        number(data, 1, 0); // NFTA_IMMEDIATE_DREG: NFT_REG_VERDICT
        nest(data, 2, |value| {
            // NFTA_IMMEDIATE_DATA, NFTA_DATA_VERDICT
            nest(value, 2, |verdict| {
                number(verdict, 1, code.cast_unsigned()); // NFTA_VERDICT_CODE
                if let Some(chain) = chain {
                    text(verdict, 2, chain); // NFTA_VERDICT_CHAIN
                }
            });
        });
    });
}

fn redirect(list: &mut Vec<u8>, port: u16) {
    expression(list, "immediate", |data| {
        number(data, 1, REGISTER); // NFTA_IMMEDIATE_DREG
        // NFTA_IMMEDIATE_DATA, NFTA_DATA_VALUE
        nest(data, 2, |value| attribute(value, 1, &port.to_be_bytes()));
    });
    expression(list, "redir", |data| {
        number(data, 1, REGISTER); // NFTA_REDIR_REG_PROTO_MIN
        number(data, 3, 2); // NFTA_REDIR_FLAGS: NF_NAT_RANGE_PROTO_SPECIFIED
    });
}

fn expression(list: &mut Vec<u8>, name: &str, data: impl FnOnce(&mut Vec<u8>)) {
    // NFTA_LIST_ELEM, NFTA_EXPR_NAME, NFTA_EXPR_DATA
    nest(list, 1, |out| {
        text(out, 1, name);
        nest(out, 2, data);
    });
}

// === bytes ===

/// `struct nfgenmsg`.
fn header(family: u8, resource: u16) -> Vec<u8> {
    let [high, low] = resource.to_be_bytes();
    vec![family, 0, high, low]
}

/// `struct nlmsghdr` and what follows it.
fn message(out: &mut Vec<u8>, kind: u16, flags: u16, sequence: u32, body: &[u8]) {
    out.extend(size(16 + body.len()).to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(flags.to_ne_bytes());
    out.extend(sequence.to_ne_bytes());
    // From no port: the kernel fills it in.
    out.extend([0; 4]);
    out.extend(body);
    pad(out);
}

/// A text with the 0 that ends it.
fn text(out: &mut Vec<u8>, kind: u16, text: &str) {
    attribute(out, kind, &[text.as_bytes(), &[0]].concat());
}

fn number(out: &mut Vec<u8>, kind: u16, value: u32) {
    attribute(out, kind, &value.to_be_bytes());
}

fn nest(out: &mut Vec<u8>, kind: u16, fill: impl FnOnce(&mut Vec<u8>)) {
    let mut inner = Vec::new();
    fill(&mut inner);
    attribute(out, kind | NESTED, &inner);
}

/// `struct nlattr` and what it holds.
fn attribute(out: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(4 + value.len()).expect("a rule has less than 1 KiB");
    out.extend(length.to_ne_bytes());
    out.extend(kind.to_ne_bytes());
    out.extend(value);
    pad(out);
}

/// Up to a multiple of 4 bytes.
fn pad(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

fn size(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("a message has less than 1 KiB")
}
