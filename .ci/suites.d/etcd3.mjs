// Goes through the interface of Node's etcd3 as its users do: keys, leases, watches, transactions, locks, elections, users and roles.
//
//   node etcd3.mjs HOST:PORT

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { Etcd3, EtcdLockFailedError, EtcdRoleExistsError, EtcdRoleNotFoundError, EtcdUserNotFoundError, Range } from 'etcd3';

const client = new Etcd3({ hosts: process.argv[2] });

const parts = {
  async 'keys are put, read, listed and deleted'() {
    await Promise.all(['a', 'b', 'c'].map(key => client.put(`keys/${key}`).value(`of ${key}`)));
    assert.equal(await client.get('keys/a').string(), 'of a');
    assert.deepEqual(await client.getAll().prefix('keys/').keys(), ['keys/a', 'keys/b', 'keys/c']);
    assert.equal(await client.get('keys/none').string(), null);
    const ranged = await client.getAll().prefix('keys/').sort('Key', 'Descend').limit(2).strings();
    assert.deepEqual(Object.keys(ranged), ['keys/c', 'keys/b']);
    assert.equal((await client.delete().prefix('keys/').exec()).deleted, '3');
  },

  async 'a lease takes its keys with it'() {
    const lease = client.lease(60);
    await lease.put('leased').value('x');
    assert.equal((await client.get('leased').exec()).kvs[0].lease, await lease.grant());
    await lease.keepaliveOnce();
    await lease.revoke();
    assert.equal(await client.get('leased').string(), null);
  },

  async 'a watcher sees what is written and deleted'() {
    const watcher = await client.watch().prefix('watched/').create();
    const put = once(watcher, 'put');
    await client.put('watched/a').value('1');
    assert.equal((await put)[0].value.toString(), '1');
    const gone = once(watcher, 'delete');
    await client.delete().key('watched/a');
    assert.equal((await gone)[0].key.toString(), 'watched/a');
    await watcher.cancel();
  },

  async 'a transaction takes one of its branches'() {
    const branch = () =>
      client.if('txn', 'Create', '==', 0).then(client.put('txn').value('first')).else(client.get('txn')).commit();
    assert.equal((await branch()).succeeded, true);
    const second = await branch();
    assert.equal(second.succeeded, false);
    assert.equal(second.responses[0].response_range.kvs[0].value.toString(), 'first');
    await client.stm().transact(tx => tx.get('txn').string().then(value => tx.put('txn').value(`${value}, then`)));
    assert.equal(await client.get('txn').string(), 'first, then');
  },

  async 'a lock is held by one'() {
    const held = await client.lock('lock').acquire();
    await assert.rejects(client.lock('lock').acquire(), EtcdLockFailedError);
    await held.release();
    await (await client.lock('lock').acquire()).release();
  },

  async 'an election has one leader'() {
    const election = client.election('vote');
    const observer = await election.observe();
    const campaign = election.campaign('one');
    await once(campaign, 'elected');
    if (observer.leader() !== 'one') await once(observer, 'change');
    assert.equal(await election.leader(), 'one');
    await campaign.proclaim('one again');
    assert.equal(await election.leader(), 'one again');
    await campaign.resign();
    assert.equal(await election.leader(), undefined);
    await observer.cancel();
  },

  async 'users and roles are kept'() {
    const role = client.role('reader');
    await role.create();
    await assert.rejects(role.create(), EtcdRoleExistsError);
    await role.grant({ permission: 'Read', range: Range.prefix('a/') });
    assert.equal((await role.permissions())[0].permission, 'Read');
    const user = client.user('anna');
    await user.create('secret');
    await user.addRole('reader');
    assert.deepEqual((await user.roles()).map(it => it.name), ['reader']);
    await role.delete();
    assert.deepEqual(await user.roles(), []);
    await assert.rejects(role.delete(), EtcdRoleNotFoundError);
    await user.delete();
    await assert.rejects(user.delete(), EtcdUserNotFoundError);
  },

  async 'the server tells of itself'() {
    const status = await client.maintenance.status();
    assert.match(status.version, /^3\./);
    assert.equal((await client.cluster.memberList({})).members.length, 1);
    let size = 0;
    const snapshot = await client.maintenance.snapshot();
    snapshot.on('data', message => (size += message.blob.length));
    await once(snapshot, 'end');
    assert.equal(size % 512, 32, 'pages, and a digest after them');
  },
};

for (const [name, part] of Object.entries(parts)) {
  // A part that hangs is one that failed.
  let timer;
  const late = new Promise((_, reject) => (timer = setTimeout(() => reject(new Error(`${name}: not done after 20 s`)), 20_000)));
  await Promise.race([part(), late]).finally(() => clearTimeout(timer));
  console.log(`ok ${name}`);
}
client.close();
