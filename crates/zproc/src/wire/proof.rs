//! Proofs that both sides know the secret key, which never goes over the wire.
//!
//! Each side sends a nonce of 32 random bytes. A proof is the keyed BLAKE3 hash of who proves, and both nonces; the key is
//! derived from the secret. A transcript proves nothing later, since the other side's nonce is then another one; and
//! neither side's proof can be sent back as its own, since they say who proves. Comparisons take constant time.

use std::io;

/// A random number that is used once.
pub(crate) type Nonce = [u8; 32];

/// A key, derived from the secret that a user gave.
#[derive(Clone)]
pub(crate) struct Key([u8; 32]);

/// Who proves.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Side {
    Client,
    Server,
}

/// Says what the derived keys are for: no other program derives the same from a secret that is used elsewhere too.
const CONTEXT: &str = "zproc 2026-11 secret key of a state server, protocol 1";

impl Key {
    /// Derives the key.
    pub(crate) fn of(secret: &[u8]) -> Self {
        Self(blake3::derive_key(CONTEXT, secret))
    }

    /// The key, for a child of this process.
    pub(crate) fn to_bytes(&self) -> [u8; 32] {
        self.0
    }

    /// The key that a parent has derived.
    pub(crate) fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// What `side` sends to prove that it knows the key.
    pub(crate) fn prove(&self, side: Side, client: &Nonce, server: &Nonce) -> [u8; 32] {
        *self.hash(side, client, server).as_bytes()
    }

    /// Whether the other side has proved it. In constant time.
    pub(crate) fn is_proved(&self, side: Side, client: &Nonce, server: &Nonce, proof: [u8; 32]) -> bool {
        // The comparison of hashes is the one that takes constant time.
        self.hash(side, client, server) == blake3::Hash::from_bytes(proof)
    }

    fn hash(&self, side: Side, client: &Nonce, server: &Nonce) -> blake3::Hash {
        let who: &[u8; 8] = match side {
            Side::Client => b"client\0\0",
            Side::Server => b"server\0\0",
        };
        let mut message = [0; 72];
        message[..8].copy_from_slice(who);
        message[8..40].copy_from_slice(client);
        message[40..].copy_from_slice(server);
        blake3::keyed_hash(&self.0, &message)
    }
}

/// Never shows the key.
impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(..)")
    }
}

/// Bytes that nobody can guess.
pub(crate) fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_holds_for_its_key_its_side_and_its_nonces_only() {
        let (client, server): (Nonce, Nonce) = (random().unwrap(), random().unwrap());
        let key = Key::of(b"secret");
        let proof = key.prove(Side::Client, &client, &server);
        assert!(key.is_proved(Side::Client, &client, &server, proof));
        assert!(!key.is_proved(Side::Server, &client, &server, proof));
        assert!(!key.is_proved(Side::Client, &server, &client, proof));
        assert!(!key.is_proved(Side::Client, &client, &random().unwrap(), proof));
        assert!(!Key::of(b"secrets").is_proved(Side::Client, &client, &server, proof));
        assert!(!key.is_proved(Side::Client, &client, &server, [0; 32]));
        assert_eq!(format!("{key:?}"), "Key(..)");
    }

    /// The protocol is documented: another implementation must come to the same bytes.
    #[test]
    fn the_derivation_is_the_documented_one() {
        let key = Key::of(b"secret");
        let hash = blake3::Hasher::new_derive_key(CONTEXT).update(b"secret").finalize();
        assert_eq!(key.to_bytes(), *hash.as_bytes());
        let message = [&b"server\0\0"[..], &[1; 32], &[2; 32]].concat();
        let expected = blake3::Hasher::new_keyed(&key.to_bytes()).update(&message).finalize();
        assert_eq!(key.prove(Side::Server, &[1; 32], &[2; 32]), *expected.as_bytes());
    }
}
