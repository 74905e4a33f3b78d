//! Every bound in one place, each with its reason. What arrives is cut at
//! these before anything is allocated for it.

/// The largest SWIM packet, bytes: a QUIC datagram holds 1,162 at first.
pub const SWIM_PACKET_MAX: usize = 1_100;
/// The largest message between members that is not content, bytes: a catalog
/// with its lineage, in a cluster of a thousand members with many versions.
pub const MESSAGE_MAX: usize = 8 << 20;
/// The largest message from a stranger that knocks, bytes: a name, an
/// address, two keys and two signatures.
pub const KNOCK_MAX: usize = 4 << 10;
/// The largest listing of a tree, bytes: a million entries of common length.
pub const TREE_MAX: usize = 256 << 20;
/// The longest list of what a tree differs in from another, bytes. What is longer saves too
/// little to be told in a second way beside the listing.
pub const CHANGES_MAX: usize = TREE_MAX / 4;
/// Trees that a requester names as those that it has: what is live on it, as a rule.
pub const BASES_MAX: usize = 16;
/// The largest record that one member keeps of itself, bytes.
pub const RECORD_MAX: usize = 64 << 20;

/// Members of one cluster. The roster travels whole, and so does what membership
/// knows of all of them: at 16,384 some 2 MiB and 750 KiB. [`CATALOG_MAX`]
/// stops a roster with long names earlier.
pub const MEMBERS_MAX: usize = 16_384;
/// Applications of one cluster.
pub const APPLICATIONS_MAX: usize = 1_024;
/// Versions kept of one application. Older ones leave the catalog, and their
/// content the store.
pub const VERSIONS_MAX: usize = 20;
/// Below this, seconds, no policy removes a member that is down: a restart or
/// an update takes minutes.
pub const REMOVE_AFTER_MIN_S: u64 = 600;
/// A policy never leaves fewer voters than this: the least that can lose one.
pub const VOTERS_KEPT_MIN: usize = 3;
/// Next keys of a member of which it is not known whether they will be used.
pub const NEXT_KEYS_MAX: usize = 8;
/// Addresses at which a member that starts looks for the others (`--join`).
pub const SEEDS_MAX: usize = 16;
/// Open invitations.
pub const INVITES_MAX: usize = 256;
/// Roster changes that the lineage keeps. A member that was away for more of
/// them can't prove the catalog to itself any more and has to join anew.
pub const LINEAGE_MAX: usize = 4_096;
/// Bytes of these, about: a few thousand changes in a small cluster, some
/// twenty among a thousand voters.
pub const LINEAGE_BYTES_MAX: usize = 1 << 20;
/// Signed accepts that evidence of a lie shows of each of its two catalogs: the majority of seven
/// voters, where one accept of each would do.
pub const EVIDENCE_ACCEPTS_MAX: usize = 4;
/// Closed windows whose outcome the catalog remembers, so that a publisher
/// that lost its coordinator still learns how it ended.
pub const OUTCOMES_MAX: usize = 16;
/// Rules about the cluster that act, or did, and are remembered in the catalog: with the texts
/// below, 50 KiB at most.
pub const EPISODES_MAX: usize = 64;
/// Length of the name of an episode, bytes: two names, a member's, and a time.
pub const EPISODE_NAME_MAX: usize = 255;
/// Length of what was measured when one began, bytes.
pub const EPISODE_WHY_MAX: usize = 512;
/// Members that one rule brings into service.
pub const BROUGHT_MAX: usize = 256;
/// Beginnings of one rule that `at-most` can count over the cluster.
pub const BEGINNINGS_MAX: usize = 32;
/// How long the next member that a rule takes out of service waits for what is under way on the
/// one before, milliseconds. It is longer than a member waits itself.
pub const LEAVING_MS: u64 = 120_000;
/// Silences that stand at once: with the texts below, 40 KiB at most.
pub const SILENCES_MAX: usize = 64;
/// Length of the reason for one, bytes.
pub const SILENCE_WHY_MAX: usize = 256;
/// The shortest silence, seconds: a shorter one is over before it is known everywhere.
pub const SILENCE_MIN_S: u64 = 60;
/// The longest one, seconds: 30 days. What is to be silent for ever is no rule.
pub const SILENCE_MAX_S: u64 = 30 * 24 * 3_600;
/// Operators that may act over the network, 200 bytes each at most.
pub const OPERATORS_MAX: usize = 64;
/// The longest time that one is given, seconds: ten years. Without an end it is for ever.
pub const OPERATOR_VALID_MAX_S: u64 = 3_650 * 24 * 3_600;
/// Tags of one member.
pub const TAGS_MAX: usize = 32;
/// Length of the name of a tag, bytes.
pub const TAG_KEY_MAX: usize = 63;
/// Length of the value of a tag, bytes.
pub const TAG_VALUE_MAX: usize = 255;
/// Length of an application's placement, bytes.
pub const PLACEMENT_MAX: usize = 1_024;
/// How deep its parentheses and negations may be nested.
pub const PLACEMENT_DEPTH_MAX: usize = 32;
/// All tags of one member, names and values, bytes: they fit into a knock.
pub const TAGS_BYTES_MAX: usize = 2_048;
/// Length of the name of a member's event or question, bytes.
pub const RUMOR_NAME_MAX: usize = 64;
/// What goes with it, bytes: as in Serf. It is a hint, and not a way to move data.
pub const RUMOR_PAYLOAD_MAX: usize = 512;
/// The encoding of both with origin, number and time, bytes.
pub const RUMOR_MAX: usize = 1 << 10;
/// An answer to a question, bytes.
pub const ANSWER_MAX: usize = 1 << 10;
/// Rumours of one origin that are kept for those that are away.
pub const RUMORS_KEPT_EACH: usize = 64;
/// Rumours of all origins that are kept: some hundreds of kilobytes.
pub const RUMORS_KEPT_MAX: usize = 1_024;
/// Questions of one member that are open at once.
pub const QUERIES_MAX: usize = 8;
/// Host names of one application.
pub const HOSTS_MAX: usize = 64;
/// Ignore patterns of one application.
pub const PATTERNS_MAX: usize = 256;
/// Length of a text that a person wrote (a message, a pattern), bytes.
pub const TEXT_MAX: usize = 4_096;
/// Applications that one ballot names as differing: all of them, because one
/// that is not named counts as being as committed.
pub const DIFFERING_MAX: usize = APPLICATIONS_MAX;
/// Troubles with applications that a member tells the others of: the first few say it.
pub const TROUBLES_MAX: usize = 16;
/// The sentence of one, bytes.
pub const TROUBLE_MAX: usize = 512;
/// Applications of which a member says how it does with their newest version: those that
/// fail first.
pub const NOTES_MAX: usize = 64;
/// Changes that wait for their turn on one member.
pub const PROPOSALS_MAX: usize = 64;
/// The largest catalog, and the largest lineage, bytes: a promise may carry
/// two of the one and one of the other, and must fit into a message.
pub const CATALOG_MAX: usize = MESSAGE_MAX / 4;
/// How far ahead of the highest known round another one may be. A forged
/// round near the end of the numbers would end all changes for ever.
pub const ROUND_LEAP_MAX: u64 = 1 << 40;

/// Entries of one tree.
pub const ENTRIES_MAX: usize = 2_000_000;
/// Length of one path, bytes (PATH_MAX of Linux less room for the root).
pub const PATH_MAX: usize = 3_072;
/// Length of one component, bytes (NAME_MAX of Linux).
pub const COMPONENT_MAX: usize = 255;
/// Depth of one path, components.
pub const DEPTH_MAX: usize = 128;
/// The largest file, bytes: 1 TiB.
pub const FILE_MAX: u64 = 1 << 40;
/// Content-defined chunks: minimum, average and maximum, bytes. Small enough
/// that an edit costs little, large enough that a gigabyte is a few thousand.
pub const CHUNK_MIN: usize = 64 << 10;
/// See [`CHUNK_MIN`].
pub const CHUNK_AVERAGE: usize = 256 << 10;
/// See [`CHUNK_MIN`]. Nothing larger is accepted as a chunk.
pub const CHUNK_MAX: usize = 1 << 20;
/// Chunks of one file, by [`FILE_MAX`] and [`CHUNK_MIN`].
pub const CHUNKS_MAX: usize = 1 << 24;
/// Chunks that one ActionList asks for, and items of one UpdateList that
/// answers it: some forty kilobytes of list.
pub const ACTIONS_MAX: usize = 1_024;
/// The longest ActionList or UpdateList of a pull, bytes: [`ACTIONS_MAX`]
/// items of at most 48 bytes, with room.
pub const ACTION_LIST_MAX: usize = 64 << 10;
/// A bit for each chunk of a tree, bytes: some four terabytes of content.
pub const BITS_MAX: usize = 2 << 20;
/// Content that one pull has asked for and not yet put away, bytes: keeps a
/// gigabit wire with 50 ms of delay busy, and a member's memory small.
pub const IN_FLIGHT_MAX: usize = 8 << 20;

/// Events that a member keeps in memory.
pub const EVENTS_MAX: usize = 1_000;
/// Users' events among them: they displace nothing that Althing has to say.
pub const USER_EVENTS_MAX: usize = EVENTS_MAX / 2;

/// Virtual addresses of one application: more than anybody gives to one.
pub const ADDRESSES_MAX: usize = 32;
/// Virtual addresses of all applications: what one message about them names at the most.
pub const LEASES_MAX: usize = 1_024;

/// Series of one member: an ordinary one has about a hundred. What comes beyond is refused and
/// counted, so that a service which makes up names can't fill memory and disk.
pub const SERIES_MAX: usize = 2_000;
/// Series among them that keep distributions, for percentiles: about 12 MiB of disk each.
pub const DISTRIBUTIONS_MAX: usize = 64;
/// Series among them that services and scripts may make up.
pub const CUSTOM_SERIES_MAX: usize = 500;
/// Lines that services and scripts may tell a second: reading so many takes a few milliseconds.
pub const CUSTOM_LINES_MAX: usize = 20_000;
/// Length of the name of a series, bytes.
pub const SERIES_NAME_MAX: usize = 64;
/// Length of the label of a series, bytes: an application with a service, or a mount point.
pub const SERIES_LABEL_MAX: usize = 200;
/// Length of a pattern of series, bytes: the longest series, with room for asterisks.
pub const SERIES_PATTERN_MAX: usize = 300;
/// The largest value of a sample, either side of zero: it fits into single precision with
/// room, and nobody measures so much of anything.
pub const SAMPLE_MAX: f64 = 1e30;
/// Bins of one sketch: at 1 % values of one sign and eight powers of ten apart.
pub const SKETCH_BINS_MAX: usize = 1_024;
/// Buckets of one series in one answer: more than the longest that is kept has.
pub const BUCKETS_MAX: usize = 10_000;
/// Rows of all series in one answer of the store: some sixty megabytes for a moment.
pub const ANSWER_CELLS_MAX: usize = 1 << 20;
/// Mount points that are looked at.
pub const MOUNTS_MAX: usize = 32;
/// Network interfaces that are looked at, one by one: a host of containers has thousands.
pub const INTERFACES_MAX: usize = 32;

/// Events in the log on disk: months of an ordinary member.
pub const LOGGED_MAX: u64 = 100_000;
/// Bytes of their encodings: some three hundred for each.
pub const LOGGED_BYTES_MAX: u64 = 32 << 20;
/// The newest of them stay however old they are, so that a clock that jumps ahead can't
/// empty the log.
pub const LOGGED_MIN: u64 = 1_000;
/// The encoding of one event in the log, bytes: its texts at their longest.
pub const LOGGED_EACH_MAX: usize = 16 << 10;
/// Events in one answer.
pub const LOGGED_ANSWER_MAX: usize = 10_000;
