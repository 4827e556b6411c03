//! A certificate is renewed while the pair goes on.

use ipicsha_core::{
    admin::{AdminCommand, AdminReply, Refusal},
    config::PartitionPolicy,
    time::WallTime,
    trust::Partner,
};

use crate::world::{PRIMARY, SECONDARY, World, fast};

const SECOND: u64 = 1_000_000;

fn pair() -> World {
    World::ready(2, fast(), PartitionPolicy::Availability)
}

fn announce() -> AdminCommand {
    AdminCommand::AnnounceCertificate(vec![7; 400])
}

fn in_use() -> AdminCommand {
    AdminCommand::CertificateInUse { certificate: vec![7; 400], ends: WallTime(1) }
}

fn pinned(world: &World, at: usize) -> Partner {
    world.servers[at].disk.partner.clone().expect("they trust each other")
}

#[test]
fn spec_a3_the_partner_accepts_both_certificates_until_the_new_one_is_used() {
    let mut world = pair();
    let before = pinned(&world, SECONDARY).certificate;
    let request = world.ask(PRIMARY, announce());
    world.run(SECOND);
    assert_eq!(world.servers[PRIMARY].replies[&request], Ok(AdminReply::Done));
    let partner = pinned(&world, SECONDARY);
    assert_eq!(partner.certificate, before);
    assert_eq!(partner.next_certificate, Some(vec![7; 400]));
    world.ask(PRIMARY, in_use());
    world.run(SECOND);
    let partner = pinned(&world, SECONDARY);
    assert_eq!((partner.certificate, partner.next_certificate), (vec![7; 400], None));
    assert_eq!(world.servers[PRIMARY].disk.renewed, None, "nothing is left to be told");
    assert_eq!(world.status_line(PRIMARY), "Ready");
}

#[test]
fn what_is_lost_on_the_way_is_told_again_also_after_a_restart() {
    let mut world = pair();
    world.links[PRIMARY].loss_per_mille = 600;
    let request = world.ask(PRIMARY, announce());
    world.run(9 * SECOND);
    assert_eq!(world.servers[PRIMARY].replies[&request], Ok(AdminReply::Done));
    world.set_cut(PRIMARY, true);
    world.set_cut(SECONDARY, true);
    world.ask(PRIMARY, in_use());
    world.restart(PRIMARY);
    world.links[PRIMARY].loss_per_mille = 0;
    world.set_cut(PRIMARY, false);
    world.set_cut(SECONDARY, false);
    world.run(2 * SECOND);
    assert_eq!(pinned(&world, SECONDARY).certificate, vec![7; 400]);
    assert_eq!(world.servers[PRIMARY].disk.renewed, None);
}

#[test]
fn without_the_partner_nothing_is_renewed() {
    let mut world = pair();
    world.set_cut(PRIMARY, true);
    let request = world.ask(PRIMARY, announce());
    world.run(30 * SECOND);
    assert_eq!(world.servers[PRIMARY].replies[&request], Err(Refusal::NotNoted));
    world.set_cut(SECONDARY, true);
    world.run(3 * SECOND);
    let request = world.ask(PRIMARY, announce());
    let reply = &world.servers[PRIMARY].replies[&request];
    assert!(matches!(reply, Err(Refusal::PartnerUnreachable(_))), "{reply:?}");
}

#[test]
fn a_certificate_that_was_never_announced_is_not_taken() {
    let mut world = pair();
    let before = pinned(&world, SECONDARY);
    world.ask(PRIMARY, in_use());
    world.run(5 * SECOND);
    assert_eq!(pinned(&world, SECONDARY), before);
}

#[test]
fn a_daemon_that_ends_between_the_change_of_its_files_and_its_note_tells_at_the_next_start() {
    let mut world = pair();
    world.ask(PRIMARY, announce());
    world.run(SECOND);
    world.servers[PRIMARY].config.certificate = vec![7; 400];
    world.restart(PRIMARY);
    world.run(2 * SECOND);
    assert_eq!(pinned(&world, SECONDARY).certificate, vec![7; 400]);
    assert_eq!(world.servers[PRIMARY].disk.renewed, None);
    assert_eq!(world.servers[PRIMARY].disk.announced, None);
}

#[test]
fn another_one_is_announced_only_when_the_one_before_is_settled() {
    let mut world = pair();
    world.ask(PRIMARY, announce());
    world.run(SECOND);
    world.set_cut(PRIMARY, true);
    world.ask(PRIMARY, in_use());
    let request = world.ask(PRIMARY, AdminCommand::AnnounceCertificate(vec![8; 400]));
    world.run(SECOND);
    assert_eq!(pinned(&world, SECONDARY).next_certificate, Some(vec![7; 400]));
    world.set_cut(PRIMARY, false);
    world.run(2 * SECOND);
    assert_eq!(world.servers[PRIMARY].replies[&request], Ok(AdminReply::Done));
    let partner = pinned(&world, SECONDARY);
    assert_eq!(partner.certificate, vec![7; 400]);
    assert_eq!(partner.next_certificate, Some(vec![8; 400]));
}
