/*
 * The order of events the guarantee rests on: reserve, charge, open data, publish, settle.
 *
 * Researchers share one small budget, workers take jobs by hints that prove nothing, claims carry a
 * fence and a lease, and up to FAULTS faults of any kind strike at any point: a worker dies, sleeps
 * past its lease or loses its sandbox, the answer to a commit is lost, the policy engine is away, a
 * hint is lost, repeated or forged. A researcher cancels, the owner denies or freezes.
 *
 * An `atomic` block that says `commit` is one transaction of the code named beside it; between two
 * of them anything may happen. Ghosts exist for assertions alone: no step may depend on one, save
 * that the clock knows which leases nobody renews.
 *
 * Each MUTANT_... is a mistake somebody could make; test_model.py demands that each is caught, and
 * docs/internals/protocol-model.md says by which assertion.
 */

#ifndef JOBS
#define JOBS 3
#endif
#ifndef FAULTS
#define FAULTS 1
#endif
#ifndef LIMIT
#define LIMIT 4                              /* the budget; a round costs 1 */
#endif
#define ATTEMPTS 2                           /* Settings.maximum_attempts */
#define ROUNDS(j) ((j) == 2 -> 1 : 2)

/* Why a job is over makes no difference to what must hold, so all final states are one. */
mtype = { unsent, queued, running, over };
mtype = { allows, denies, freezes };

typedef Job {
  mtype status = unsent;
  byte fence;      /* raised by each claim */
  byte attempt;    /* claims since the last published round */
  byte charged;    /* rounds taken from the reservation, repetitions included */
  byte held;       /* rounds still reserved; none once settled */
  byte published;  /* rounds, in order from 1 */
  byte releases;   /* rows (job, round): a bit per round */
  bool lease;      /* in force by the database's clock */
  bool wish;       /* a cancel is wanted */
  bool hint;       /* at least one message about this job is under way */
  bool tended;     /* ghost: whoever holds the newest claim is alive */
#ifdef MUTANT_CHARGE_ONCE_PER_ROUND
  byte ever;
#endif
};

Job jobs[JOBS];
byte charged;             /* the population's balance: spent for ever */
byte reserved;            /* and promised */
mtype owner = allows;     /* the active revision, or a frozen population */
byte faults = FAULTS;
bool fickle = true;       /* one researcher may still change her mind */
byte highest;             /* ghost: the most that was ever charged */

#define J jobs[job]
#define OVER(j) (jobs[j].status == over)
#define BIT(r) (1 << ((r) - 1))
#define IN_FORCE (J.status == running && J.fence == fence && J.lease)
#define FAULT faults > 0 -> faults--

#if JOBS == 3
#define SUM(field) (jobs[0].field + jobs[1].field + jobs[2].field)
#define ALL_OVER (OVER(0) && OVER(1) && OVER(2))
#else
#define SUM(field) (jobs[0].field + jobs[1].field)
#define ALL_OVER (OVER(0) && OVER(1))
#endif

ltl every_job_ends { <> ALL_OVER }

/* What holds after every commit. */
inline commit() {
  assert(charged + reserved <= LIMIT);
  assert(charged >= highest);
  assert(charged == SUM(charged) && reserved == SUM(held));
  assert(!OVER(job) || J.held == 0);
  highest = charged
}

/* jobs.states.move: nobody leaves a final state. */
inline move(to) {
  assert(!OVER(job));
  J.status = to;
  J.lease = false;
  J.tended = false
}

/* jobs.states.enqueue; jobs.outbox.relay follows the commit. */
inline enqueue() {
  move(queued);
  J.hint = true
}

/* jobs.settlement.end: the rest goes back, what was charged stays charged. */
inline end() {
#ifndef MUTANT_END_KEEPS_RESERVATION
  reserved = reserved - J.held;
  J.held = 0;
#endif
#ifdef MUTANT_REFUND_STARTED
  charged = charged - (J.charged - J.published);
  J.charged = J.published;
#endif
  J.attempt = 0;
  J.wish = false;
  move(over)
}

/* jobs.settlement.end of a failure that may depend on data: the rest is charged, not given back. */
inline fail() {
  if
  :: J.charged > 0 && owner != freezes ->
    J.fence++;
    charged = charged + J.held;
    J.charged = J.charged + J.held;
    reserved = reserved - J.held;
    J.held = 0
  :: else
  fi;
  end()
}

/* jobs.admission.submit: check and reserve under the population's lock. */
proctype Researcher(byte job) {
  bool fits;
#ifdef MUTANT_SPLIT_RESERVE
  fits = charged + reserved + ROUNDS(job) <= LIMIT;
#endif
  atomic {
#ifndef MUTANT_SPLIT_RESERVE
    fits = charged + reserved + ROUNDS(job) <= LIMIT;
#endif
    if
    :: fits && owner == allows ->
      reserved = reserved + ROUNDS(job);
      J.held = ROUNDS(job);
      enqueue()
    :: else -> move(over)  /* denied */
    fi;
    commit();
    fits = false
  }
}

/* jobs.rounds.claim, after early acknowledgement: one UPDATE that raises the fence. */
inline claim() {
  move(running);
  J.fence++;
  J.attempt++;
  J.lease = true;
  J.tended = true;
  fence = J.fence;
  commit()
}

/* One round of a charge; the fence is its attempt. */
inline pay(r) {
  if
#ifdef MUTANT_CHARGE_ONCE_PER_ROUND
  :: J.ever & BIT(r)
#endif
  :: else ->
    paid = paid | BIT(r);
    J.held--;
    J.charged++;
    reserved--;
    charged++
  fi;
#ifdef MUTANT_CHARGE_ONCE_PER_ROUND
  J.ever = J.ever | BIT(r)
#endif
}

/* jobs.rounds.charge, accounting.ledger.charge: a block, never more than is held. */
inline charge() {
  assert(IN_FORCE);
  assert(owner == allows);
  first = round;
  last = round;
  if
  :: true
  :: round < ROUNDS(job) && J.held > 1 -> last = round + 1
  fi;
  pay(round);
  if
  :: last > round -> pay(last)
  :: else
  fi;
  seen = 0;
  commit()
}

/* The cohort is drawn and its data read: once for each round this attempt has paid. */
inline open() {
  assert(paid & BIT(round));
  paid = paid & ~BIT(round)
}

/* jobs.releases.publish, after its guard: `round`, and with it those that waited for it. */
inline insert_if_absent() {
  if
#ifndef MUTANT_PUBLISH_OVERWRITES
  :: round <= J.published  /* somebody was here before; what is stored stays */
#endif
  :: else ->
    assert(!OVER(job));
    assert(round <= J.charged);
    assert(!(J.releases & BIT(round)));
    assert(round <= answered);
    assert(first == J.published + 1);
    J.releases = J.releases | BIT(round);
    J.published = round;
    J.attempt = 0;
    commit()
  fi
}

/*
 * worker.coordinator: `fence` is its claim, `round` to `last` what is left of the block it charged,
 * `first` its earliest round that is not published.
 */
proctype Worker() {
  byte job, fence, first, round, last;
  byte paid;      /* ghost: committed charges of this attempt whose data is not open yet */
  byte answered;  /* ghost: the last round whose sum came back */
  mtype seen;

idle:
  atomic {
    job = 0; fence = 0; first = 0; round = 0; last = 0; paid = 0; answered = 0; seen = 0
  };

end_of_shift:
  atomic {
    if
    :: jobs[0].hint -> job = 0
    :: jobs[1].hint -> job = 1
#if JOBS == 3
    :: jobs[2].hint -> job = 2
#endif
    fi;
    J.hint = false;
    if
#ifndef MUTANT_TRUST_HINT
    :: J.status != queued -> goto idle
#endif
    :: else -> claim()
    fi
  }

ask:  /* jobs.blocks._ask: outside of any transaction */
  if
  :: atomic { seen = owner; first = 0; round = J.published + 1; last = 0; answered = 0 }
  :: atomic { FAULT; goto blameless }  /* no policy engine, or a polite SIGTERM */
  :: atomic { FAULT; goto crash }
  fi;

#ifdef MUTANT_OPEN_BEFORE_CHARGE
  atomic { open() };
#endif

  if  /* jobs.blocks.next_block: all of it under the job's lock */
  :: atomic {
    if
#ifndef MUTANT_CHARGE_UNFENCED
    :: !IN_FORCE -> goto idle
#endif
    :: else
    fi;
    if
    :: J.wish -> end(); commit(); goto idle
    :: else
    fi;
    if
    :: J.published == ROUNDS(job) -> goto finish
    :: else
    fi;
    if
#ifndef MUTANT_POLICY_UNCOMPARED
    :: seen != owner -> goto ask
#endif
    :: else
    fi;
    if
    :: seen != allows -> end(); commit(); goto idle
    :: seen == allows && J.held == 0 -> goto finish
    :: seen == allows && J.held > 0 -> charge()
    fi
  }
  :: atomic { FAULT; goto crash }
  fi;

training:
  if
  :: atomic { round > last -> goto ask }
#ifndef MUTANT_OPEN_BEFORE_CHARGE
  :: atomic { round <= last -> open() }
#else
  :: round <= last
#endif
  :: atomic { FAULT; goto lost_sandbox }  /* no sandbox, or no answer to the charge */
  :: atomic { FAULT; goto crash }
  fi;

  if  /* worker.publication.catch_up: while this round is computed, what waited is published */
  :: true
  :: atomic {
    round > first ->
#ifndef MUTANT_PUBLISH_UNANSWERED
    round--;
#endif
    if
#ifndef MUTANT_PUBLISH_UNFENCED
    :: !IN_FORCE -> goto idle
#endif
    :: else -> insert_if_absent()
    fi;
#ifndef MUTANT_PUBLISH_UNANSWERED
    round++;
#endif
    if
    :: first = round
    :: FAULT; goto lost_sandbox  /* committed, but the answer was lost: once more, and no further */
    fi
  }
  :: atomic { round > first && faults > 0 -> faults--; goto lost_sandbox }  /* no database */
  :: atomic { FAULT; goto crash }
  fi;

  if
  :: answered = round
  :: atomic { FAULT; goto lost_sandbox }
  :: atomic { FAULT; goto crash }
  fi;

  if  /* worker.publication: a round may wait for the next one of its block */
  :: atomic { round < last -> round++; goto training }
  :: true
  fi;

publishing:
  if
  :: atomic {
    if
#ifndef MUTANT_PUBLISH_UNFENCED
    :: !IN_FORCE -> goto idle
#endif
    :: else -> insert_if_absent()
    fi;
    if
    :: round++; first = round; goto training
    :: FAULT; goto publishing      /* committed, but the answer was lost: once more */
    :: FAULT; goto failed_attempt  /* or the attempt is given up */
    fi
  }
  :: atomic { FAULT; goto failed_attempt }  /* the database is away */
  :: atomic { FAULT; goto crash }
  fi;

lost_sandbox:  /* worker.publication.block: what waited is published all the same */
  if
  :: atomic {
    if
    :: round == first -> goto failed_attempt
    :: else
    fi;
#ifndef MUTANT_PUBLISH_UNANSWERED
    round--;
#endif
    if
#ifndef MUTANT_PUBLISH_UNFENCED
    :: !IN_FORCE -> goto idle
#endif
    :: else -> insert_if_absent()
    fi;
    goto failed_attempt
  }
  :: atomic { FAULT; goto failed_attempt }
  :: atomic { FAULT; goto crash }
  fi;

finish:  /* worker.coordinator._finish, _end_empty */
  if
  :: atomic {
    if
    :: IN_FORCE -> end(); commit()
    :: else
    fi;
    goto idle
  }
  :: atomic { FAULT; goto crash }
  fi;

failed_attempt:  /* worker.coordinator._give_back */
  if
  :: atomic {
    if
    :: IN_FORCE && J.attempt >= ATTEMPTS -> fail(); commit()
    :: IN_FORCE && J.attempt < ATTEMPTS -> enqueue(); commit()
    :: else
    fi;
    goto idle
  }
  :: atomic { FAULT; goto crash }
  fi;

blameless:
  atomic {
    if
    :: IN_FORCE -> J.attempt = (J.attempt > 0 -> J.attempt - 1 : 0); enqueue(); commit()
    :: else
    fi;
    goto idle
  }

crash:
  atomic {
    if
    :: IN_FORCE -> J.tended = false
    :: else
    fi;
    goto idle
  }
}

/* What comes to one job from outside: broker, relay, clock, reaper, researcher. */
proctype World(byte job) {
end_waiting:
  do
  :: atomic { faults > 0 && J.hint -> faults--; J.hint = false }              /* lost */
  :: atomic { faults > 0 && !J.hint && !OVER(job) -> faults--; J.hint = true }  /* forged */
#ifndef MUTANT_HINT_ONCE
  :: atomic { J.status == queued && !J.hint -> J.hint = true }  /* jobs.outbox.relay, again */
#endif

  /* Nobody renews a dead worker's lease; a living worker may sleep past it. */
  :: atomic { J.lease && !J.tended -> J.lease = false }
  :: atomic { J.lease && J.tended && faults > 0 -> faults--; J.lease = false; J.tended = false }

#ifndef MUTANT_NO_REAPER
  :: atomic {  /* jobs.reaper._take_back */
    J.status == running && !J.lease ->
    if
    :: J.wish -> end()
    :: !J.wish && J.attempt >= ATTEMPTS -> fail()
    :: !J.wish && J.attempt < ATTEMPTS -> enqueue()
    fi;
    commit()
  }
#endif

  /* jobs.lifecycle.request_stop, and expire for a job that waits */
  :: atomic { fickle && J.status == queued -> fickle = false; end(); commit() }
  :: atomic { fickle && J.status == running -> fickle = false; J.wish = true }
  od
}

init {
  atomic {
    run Researcher(0); run Researcher(1);
    run World(0); run World(1);
#if JOBS == 3
    run Researcher(2);
    run World(2);
#endif
    run Worker(); run Worker()
  };
  if
  :: owner = denies
  :: owner = freezes
  :: true  /* the owner is content for ever */
  fi
}
